"""Pair statistics from the whole similarity matrix: the definition that others are tested against.

It needs several arrays [anchors, candidates], and can be differentiated any number of times, in
forward and reverse mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from thanos_jax.losses.pairs.axes import AxisName, gather
from thanos_jax.losses.pairs.entries import Entries


def statistics(
    entries: Entries,
    *,
    temperature: jax.Array | float,
    views: str,
    names: Collection[str],
    axis_name: AxisName | None,
    bank: Entries | None = None,
    coldest: float | None = None,
) -> dict[str, jax.Array]:
    """See `thanos_jax.losses.pairs.statistics`."""
    candidates = entries
    if axis_name is not None:
        candidates = jax.tree.map(lambda x: gather(x, axis_name), entries)
    if bank is not None:
        candidates = _append(candidates, bank)

    # Accelerators multiply float32 in fewer bits by default; divided by a small temperature,
    # that error would dominate the loss.
    similarity = jnp.matmul(
        entries.embedding, candidates.embedding.T, precision=lax.Precision.HIGHEST
    ) / jnp.asarray(temperature, entries.embedding.dtype)

    def equal(field: str) -> jax.Array:
        return getattr(entries, field)[:, None] == getattr(candidates, field)[None, :]

    own = equal("image")
    other_view = ~equal("view")
    candidate = entries.valid[:, None] & candidates.valid[None, :]
    candidate &= other_view if views == "cross" else ~own | other_view
    same = candidate & equal("label")
    own &= same
    different = candidate & ~same

    def one_positive() -> jax.Array:
        # lse({p} and N(i)) - s_ip = softplus(lse(N(i)) - s_ip), without the cancellation.
        negatives, some = different, jnp.any(different, axis=1, keepdims=True)
        log_sum = _log_sum_exp(similarity, negatives)[:, None]
        return _mean(jnp.where(some, jax.nn.softplus(log_sum - similarity), 0.0), same)

    available = {
        "log_sum_all": lambda: _log_sum_exp(similarity, candidate),
        "log_sum_same": lambda: _log_sum_exp(similarity, same),
        "mean_same": lambda: _mean(similarity, same),
        "mean_own": lambda: _mean(similarity, own),
        "one_positive": one_positive,
        "has_same": lambda: jnp.any(same, axis=1),
        "has_own": lambda: jnp.any(own, axis=1),
    }
    return {name: available[name]() for name in names}


def _append(candidates: Entries, bank: Entries) -> Entries:
    fields: dict[str, Any] = {
        name: jnp.concatenate([getattr(candidates, name), getattr(bank, name)])
        for name in ("embedding", "label", "image", "view", "valid")
    }
    return dataclasses.replace(candidates, **fields)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns row means over `mask`; 0 for an empty row."""
    count = jnp.sum(mask, axis=1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0.0), axis=1) / jnp.maximum(count, 1.0)


def _log_sum_exp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns row-wise log-sum-exp over `mask`; 0 with gradient 0 for an empty row; keeps NaN."""
    some = jnp.any(mask, axis=1, keepdims=True)
    largest = jnp.max(jnp.where(mask, values, -jnp.inf), axis=1, keepdims=True)
    largest = lax.stop_gradient(jnp.where(some, largest, 0.0))
    shifted = jnp.where(mask, values - largest, 0.0)
    total = jnp.sum(jnp.where(mask, jnp.exp(shifted), 0.0), axis=1, keepdims=True)
    return jnp.squeeze(jnp.log(jnp.where(some, total, 1.0)) + largest, axis=1)
