"""A linear model in which it can be calculated what contrastive learning learns, and forgets.

    python -m thanos_jax.theory --workdir=DIR

An input is made of a class feature v_1, a subclass feature v_2, one of K - 2 irrelevant features
and noise; an encoder is a matrix W; the loss is the spectral contrastive loss. Then

- supervised descent learns the subclass and unlearns it again (`descend`): class collapse;
- an encoder too narrow for all features leaves out the class when irrelevant features are stronger
  (`minimizers.structured`, `sweeps.strength`): feature suppression;
- supervised and unsupervised loss together keep both (`sweeps.weight`).

What the functions share:

  W, weights      [rows, dim + 1]; the last column meets the constant 1 of every input.
  M               uncentred covariance of all augmentations, [dim + 1, dim + 1].
  P, positives    what the loss pulls together: the covariance of the class means (M+, supervised),
                  of the image means (M~, unsupervised), or beta M+ + (1 - beta) M~ (joint).
  |W v_k|         how strongly feature k is learnt: the length of W's column k - 1.

`thanos_jax.theory.balance` needs none of this: it predicts how far a class spreads at the minimum
of the losses that are trained here.

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
