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


def describe(value: Any) -> str:
    """What a value is, for messages: numbers of lists of a few, never those of arrays."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype}{list(shape)}"
    kind = type(value).__name__
    few = isinstance(value, list | tuple) and len(value) <= 8
    if few and all(isinstance(x, int | float) for x in value):
        return f"{kind} {value!r}"
    if isinstance(value, list | tuple):
        first = ", ".join(map(describe, value[:3])) + (", ..." if len(value) > 3 else "")
        return f"{kind} of {len(value)} ({first})"
    plain = value is None or isinstance(value, str | int | float | complex)
    return f"{kind} {value!r}" if plain else kind


def held(value: Any) -> Any:
    """What a framework's variable holds: nnx's, or another object with `__jax_array__`."""
    if isinstance(value, jax.Array | np.ndarray):
        return value
    for method in ("get_value", "__jax_array__"):  # of nnx's, the first may be a tree of arrays
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def option(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        expected = ", ".join(repr(item) for item in allowed)
        raise ValueError(f"{name}: expected one of {expected}, got {describe(value)}")


def boolean(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is True or False: "no" and 0.5 are true to Python."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")


def listed(name: str, value: Any) -> Any:
    """Returns a list or tuple as an array, what a variable holds, anything else as it is.

    Raises:
      TypeError: a list of lists of several lengths.
    """
    value = held(value)
    if not isinstance(value, Sequence):
        return value
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value))
    try:
        return (jnp if traced else np).asarray(value)
    except ValueError as error:
        raise TypeError(f"{name}: expected an array, got {describe(value)}: {error}") from error


def floating(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is a floating point array."""
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating point array, got {describe(value)}")


def embeddings(value: Any) -> jax.Array:
    """Returns float [batch, views, dim]; [batch, dim] becomes one view, a list of them views.

    Raises:
      TypeError: not a floating point array, nor a list of them.
      ValueError: neither two nor three axes, an axis of length 0, or views that differ.
    """
    value = held(value)
    if isinstance(value, list | tuple):
        value = _stacked(value)
    floating("embeddings", value)
    if value.ndim not in (2, 3) or 0 in value.shape:
        raise ValueError(
            "embeddings: expected a non-empty array [batch, views, dim] or [batch, dim], "
            f"got {describe(value)}"
        )
    array = jnp.asarray(value)
    return array[:, None, :] if array.ndim == 2 else array


def _stacked(views: Sequence[Any]) -> jax.Array:
    """Returns views [batch, dim] as [batch, views, dim]."""
    views = [held(view) for view in views]
    if not views or any(getattr(view, "ndim", None) != 2 for view in views):
        raise TypeError(
            "embeddings: expected an array [batch, views, dim], or a list of views, arrays "
            f"[batch, dim], got {describe(views)}; stack what is one array: jnp.stack(rows)"
        )
    if len({describe(view) for view in views}) > 1:
        raise ValueError(
            f"embeddings: expected views of one shape and dtype, got {describe(views)}; a view "
            "that some images lack is padded, and False in `where` [batch, views]"
        )
    return jnp.stack([jnp.asarray(view) for view in views], axis=1)


def labels(value: Any, batch: int, *, name: str = "labels", rename: bool = True) -> jax.Array:
    """Returns integer [batch].

    64-bit labels beyond 32 bits, NumPy's or made with x64 on, are renamed to their ranks where jax
    would cut them off, which could merge two classes; only their equality means anything here.

    Args:
      value: what the caller gave.
      batch: how many labels there must be.
      name: the argument's name, for messages.
      rename: whether labels may be renamed; not where they are compared with those of elsewhere.

    Raises:
      TypeError: not an integer array.
      ValueError: another shape than [batch], or labels beyond 32 bits that may not be renamed.
    """
    value = listed(name, value)
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer array [batch={batch}], got {describe(value)}")
    if value.shape != (batch,):
        raise ValueError(
            f"{name}: expected shape [{batch}], one label for each row of embeddings, "
            f"got {describe(value)}"
        )
    kept = jax.dtypes.canonicalize_dtype(value.dtype)
    if kept != value.dtype and batch and not isinstance(value, jax.core.Tracer):
        value, limits = np.asarray(value), np.iinfo(kept)
        if value.min() < limits.min or value.max() > limits.max:
            if not rename:
                raise ValueError(
                    f"{name}: expected values of {kept} (jax has 64 bits only with x64 on), "
                    f"got {describe(value)} from {value.min()} to {value.max()}"
                )
            value = np.unique(value, return_inverse=True)[1].astype(np.int32)
    return jnp.asarray(value)


def comparable(labels: jax.Array, others: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """Returns two arrays of labels in one dtype, in which equal means equal.

    Args:
      labels: integer, the argument `labels`.
      others: integer.
      name: what `others` are, for messages.

    Raises:
      TypeError: no integer dtype that jax has at hand holds both.
    """
    both = np.promote_types(labels.dtype, others.dtype)
    if not np.issubdtype(both, np.integer) or jax.dtypes.canonicalize_dtype(both) != both:
        raise TypeError(
            f"labels: expected a dtype that can be compared with the {others.dtype} of {name}, "
            f"got {describe(labels)}; no integer dtype at hand holds both"
        )
    return labels.astype(both), others.astype(both)


def where(value: Any, batch: int, views: int | None = None) -> jax.Array:
    """Returns bool [batch], or as given [batch, views]; None means that every row is real.

    Raises:
      TypeError: not a bool array.
      ValueError: another shape than [batch] and, if views are given, [batch, views].
    """
    if value is None:
        return jnp.ones(batch, bool)
    value = listed("where", value)
    if not hasattr(value, "dtype") or value.dtype != bool:
        raise TypeError(f"where: expected a bool array [batch={batch}], got {describe(value)}")
    shapes = [(batch,)] if views is None else [(batch,), (batch, views)]
    if value.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"where: expected shape {expected}, got {describe(value)}")
    return jnp.asarray(value)


def scalar(name: str, value: Any) -> jax.Array | float:
    """Returns a real scalar: a Python number, or a floating point array of shape [].

    Raises:
      TypeError: not a real number or floating point array.
      ValueError: an array of another shape.
    """
    value = held(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = getattr(value, "dtype", None)
    real = kind is not None and (
        jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    )
    if not number and not real:
        raise TypeError(f"{name}: expected a real number or scalar array, got {describe(value)}")
    if not number and value.shape != ():
        raise ValueError(f"{name}: expected a scalar of shape [], got {describe(value)}")
    return value if isinstance(value, jax.Array) else float(value)


def temperature(value: Any) -> jax.Array | float:
    """Returns a scalar; a value that is at hand must be positive and finite."""
    checked = scalar("temperature", value)
    if not isinstance(checked, jax.core.Tracer) and not 0.0 < float(checked) < float("inf"):
        raise ValueError(f"temperature: expected a positive finite number, got {float(checked):g}")
    return checked


def weight(name: str, value: Any) -> jax.Array | float:
    """Returns a scalar; a value that is at hand must lie in [0, 1]."""
    checked = scalar(name, value)
    if not isinstance(checked, jax.core.Tracer) and not 0.0 <= float(checked) <= 1.0:
        raise ValueError(f"{name}: expected a number in [0, 1], got {float(checked):g}")
    return checked
