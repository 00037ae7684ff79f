"""Losses for rare groups and wrong labels, from one value or one row of logits per image.

    import jax
    import jax.numpy as jnp
    from thanos_jax import losses

    def objective(params, weights):
        values = ...  # [batch], for instance the cross-entropy of each image
        return losses.robust.group_dro(values, groups, weights, axis_name="data")

    weights = jnp.full(num_groups, 1 / num_groups)
    (loss, weights), gradient = jax.value_and_grad(objective, has_aux=True)(params, weights)

For groups that are rare in training: `group_dro` (group distributionally robust optimization) and
`weighted_mean` (reweighting; Just Train Twice). For wrong labels: `early_learning_regularization`,
which is added to the cross-entropy, and `small_loss_selection` (Co-teaching).

`where` and `axis_name` are as in the other losses; see `thanos_jax.losses`. Results are computed
over the global batch and are the same on every device. The exceptions are `small_loss_selection`
and `update_targets`, which return one row per row. State that is carried from step to step (weights
of groups, targets of images) is an argument and a result; no gradient flows through it.
"""

from __future__ import annotations

from thanos_jax.losses.robust.groups import group_dro, group_dro_weights, group_means
from thanos_jax.losses.robust.labels import (
    early_learning_regularization,
    small_loss_selection,
    update_targets,
)
from thanos_jax.losses.robust.weighted import weighted_mean

__all__ = [
    "early_learning_regularization",
    "group_dro",
    "group_dro_weights",
    "group_means",
    "small_loss_selection",
    "update_targets",
    "weighted_mean",
]
