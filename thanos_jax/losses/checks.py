"""What every loss asks of its arguments, checked on shapes and dtypes before anything is compiled.

Values are looked at only where they are at hand: under `jax.jit` a traced temperature cannot be
compared with zero, a Python float can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _describe(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return f"{type(value).__name__} {value!r}"
    return f"{dtype}{list(shape)}"


def option(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        expected = ", ".join(repr(item) for item in allowed)
        raise ValueError(f"{name}: expected one of {expected}, got {value!r}")


def floating(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is a floating point array."""
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating point array, got {_describe(value)}")


def embeddings(value: Any) -> jax.Array:
    """Returns float [batch, views, dim]; [batch, dim] becomes one view.

    Raises:
      TypeError: not a floating point array.
      ValueError: neither two nor three axes, or an axis of length 0.
    """
    floating("embeddings", value)
    if value.ndim not in (2, 3) or 0 in value.shape:
        raise ValueError(
            "embeddings: expected a non-empty array [batch, views, dim] or [batch, dim], "
            f"got {_describe(value)}"
        )
    array = jnp.asarray(value)
    return array[:, None, :] if array.ndim == 2 else array


def labels(value: Any, batch: int) -> jax.Array:
    """Returns integer [batch].

    NumPy's 64-bit labels beyond 32 bits are renamed to their ranks where jax would cut them off,
    which could merge two classes; only equality of labels means anything to the losses.

    Raises:
      TypeError: not an integer array.
      ValueError: another shape than [batch].
    """
    if isinstance(value, Sequence):
        value = np.asarray(value)
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer array [batch={batch}], got {_describe(value)}"
        )
    if value.shape != (batch,):
        raise ValueError(
            f"labels: expected shape [{batch}], one label for each row of embeddings, "
            f"got {_describe(value)}"
        )
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 8 and batch:
        kept = jax.dtypes.canonicalize_dtype(value.dtype)
        limits = np.iinfo(kept)
        if value.min() < limits.min or value.max() > limits.max:
            value = np.unique(value, return_inverse=True)[1].astype(np.int32)
        else:
            value = value.astype(kept)
    return jnp.asarray(value)


def where(value: Any, batch: int) -> jax.Array:
    """Returns bool [batch]; None means that every row is real.

    Raises:
      TypeError: not a bool array.
      ValueError: another shape than [batch].
    """
    if value is None:
        return jnp.ones(batch, bool)
    if isinstance(value, Sequence):
        value = np.asarray(value)
    if not hasattr(value, "dtype") or value.dtype != bool:
        raise TypeError(f"where: expected a bool array [batch={batch}], got {_describe(value)}")
    if value.shape != (batch,):
        raise ValueError(f"where: expected shape [{batch}], got {_describe(value)}")
    return jnp.asarray(value)


def scalar(name: str, value: Any) -> jax.Array | float:
    """Returns a real scalar: a Python number, or a floating point array of shape [].

    Raises:
      TypeError: not a real number or floating point array.
      ValueError: an array of another shape.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = getattr(value, "dtype", None)
    real = kind is not None and (
        jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    )
    if not number and not real:
        raise TypeError(f"{name}: expected a real number or scalar array, got {_describe(value)}")
    if not number and value.shape != ():
        raise ValueError(f"{name}: expected a scalar of shape [], got {_describe(value)}")
    return value if isinstance(value, jax.Array) else float(value)


def temperature(value: Any) -> jax.Array | float:
    """Returns a scalar; a value that is at hand must be positive and finite."""
    checked = scalar("temperature", value)
    if not isinstance(checked, jax.core.Tracer) and not 0.0 < float(checked) < float("inf"):
        raise ValueError(f"temperature: expected a positive finite number, got {value!r}")
    return checked


def weight(name: str, value: Any) -> jax.Array | float:
    """Returns a scalar; a value that is at hand must lie in [0, 1]."""
    checked = scalar(name, value)
    if not isinstance(checked, jax.core.Tracer) and not 0.0 <= float(checked) <= 1.0:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value!r}")
    return checked
