"""A linear model of contrastive learning, whose learned and forgotten features can be calculated.

    python -m thanos_jax.theory --workdir=DIR

An input is the sum of a class feature v_1, a subclass feature v_2, one of K - 2 irrelevant features
and noise. The encoder is a matrix W, the loss the spectral contrastive loss. In this model,

- supervised gradient descent learns the subclass and then unlearns it (`descend`): class collapse;
- an encoder too narrow for all features loses the class if irrelevant features are stronger
  (`minimizers.structured`, `sweeps.strength`): feature suppression;
- the sum of supervised and unsupervised loss keeps both (`sweeps.weight`).

Notation of all functions:

  W, weights      [rows, dim + 1]; the last column multiplies the constant 1 of every input.
  M               uncentred covariance of all augmentations, [dim + 1, dim + 1].
  P, positives    uncentred covariance of what the loss attracts: class means (M+, supervised),
                  image means (M~, unsupervised), or beta M+ + (1 - beta) M~ (joint).
  |W v_k|         how strongly feature k is learned: the length of W's column k - 1.

`thanos_jax.theory.balance` is independent of this model: it predicts how far a class spreads at the
minimum of the losses in `thanos_jax.losses`.

Source: Xue et al., "Which Features are Learnt by Contrastive Learning? On the Role of Simplicity
Bias in Class Collapse and Feature Suppression", ICML 2023, https://arxiv.org/abs/2305.16536
"""

from thanos_jax.theory import minimizers, sweeps
from thanos_jax.theory.data import Covariances, Model, ModelError, Sample, covariances, draw, inputs
from thanos_jax.theory.descent import Curve, descend, initial_weights
from thanos_jax.theory.losses import gradient, joint, loss, positives
from thanos_jax.theory.structure import Structure, structure

__all__ = [
    "Covariances",
    "Curve",
    "Model",
    "ModelError",
    "Sample",
    "Structure",
    "covariances",
    "descend",
    "draw",
    "gradient",
    "initial_weights",
    "inputs",
    "joint",
    "loss",
    "minimizers",
    "positives",
    "structure",
    "sweeps",
]
