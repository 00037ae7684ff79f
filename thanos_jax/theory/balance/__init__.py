"""Predicts, without training, how far a class spreads at the minimum of a contrastive loss.

    python -m thanos_jax.theory.balance --workdir=DIR

For `losses.spread`, `losses.supcon` and `losses.joint` over batches of two views:

- `within_class_spread`: W at the minimum, as within_class_spread in reports; 0 is class collapse;
- `threshold`: the alpha (beta) at which collapse begins;
- `alpha_for`: the alpha (beta) for a given W;
- `least_loss`: the loss at the minimum, which is rarely 0;
- `winning_range`: the alphas (betas) at which a spread-out set beats collapse and uniformity.

It is the minimum of the contrastive loss alone, with embeddings wide enough for one direction per
image. docs/balance.md explains what it means for a training, and `minimum` how it is calculated.
"""

from thanos_jax.theory.balance.batches import BalanceError
from thanos_jax.theory.balance.claim import Range, uniform_spread, winning_range
from thanos_jax.theory.balance.predictions import (
    alpha_for,
    each_class,
    least_loss,
    threshold,
    within_class_spread,
)

__all__ = [
    "BalanceError",
    "Range",
    "alpha_for",
    "each_class",
    "least_loss",
    "threshold",
    "uniform_spread",
    "winning_range",
    "within_class_spread",
]
