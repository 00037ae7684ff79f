"""Checks of the arguments of losses for rare groups and wrong labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thanos_jax.losses import checks


def vector(
    name: str, value: Any, axis: str, length: int | None = None, *, integers: bool = False
) -> jax.Array:
    """Returns a non-empty float array of one axis; with `integers`, an integer array too."""
    expected = f"array [{axis}]" if length is None else f"array [{axis}={length}]"
    if integers:
        value = checks.listed(name, value)
    kinds = (jnp.floating, jnp.integer) if integers else (jnp.floating,)
    if not hasattr(value, "dtype") or not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        which = "a floating point or integer" if integers else "a floating point"
        raise TypeError(f"{name}: expected {which} {expected}, got {checks.describe(value)}")
    if value.ndim != 1 or 0 in value.shape or length not in (None, len(value)):
        which = "a non-empty" if length is None else "an"
        raise ValueError(f"{name}: expected {which} {expected}, got {checks.describe(value)}")
    return jnp.asarray(value)


def logits_and_targets(logits: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Returns logits and targets as non-empty float arrays [batch, classes] of equal shape."""
    for name, value in (("logits", logits), ("targets", targets)):
        checks.floating(name, value)
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(
            "logits: expected a non-empty array [batch, classes] of at least two classes, "
            f"got {checks.describe(logits)}"
        )
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets: expected the shape of logits, {list(logits.shape)}, "
            f"got {checks.describe(targets)}"
        )
    return jnp.asarray(logits), jnp.asarray(targets)


def not_negative(name: str, value: Any) -> Any:
    """Returns the value; raises ValueError if it is concrete and negative, infinite or NaN."""
    seen = at_hand(value)
    if seen is not None and not np.all((seen >= 0) & (seen < np.inf)):
        shown = f"{seen.item():g}" if seen.ndim == 0 else checks.describe(value)
        if seen.ndim:
            shown += f" {seen}" if seen.size <= 8 else f" from {seen.min():g} to {seen.max():g}"
        raise ValueError(f"{name}: expected no negative and only finite values, got {shown}")
    return value


def at_hand(value: Any) -> np.ndarray | None:
    """Returns the values as a NumPy array; None if they are traced or partly on other machines."""
    if isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(value)
