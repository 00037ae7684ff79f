"""Argument checks of the losses, on shapes and dtypes, before anything is compiled.

Values are checked only if they are concrete: under `jax.jit` a Python float can be compared with
zero, but a traced temperature cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(value: Any) -> str:
    """Describes a value for messages: short lists with their numbers, arrays by dtype and shape."""
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
    """Returns the value of a framework's variable, of nnx or with `__jax_array__`; else `value`."""
    if isinstance(value, jax.Array | np.ndarray):
        return value
    for method in ("get_value", "__jax_array__"):  # get_value of nnx may return a tree of arrays
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def option(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        expected = ", ".join(repr(item) for item in allowed)
        raise ValueError(f"{name}: expected one of {expected}, got {describe(value)}")


def boolean(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is True or False; "no" and 0.5 would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")


def listed(name: str, value: Any) -> Any:
    """Returns a list or tuple as an array, a variable as its value, anything else unchanged.

    Raises:
      TypeError: the lists in a list differ in length.
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
    """Returns embeddings as float [batch, views, dim].

    Args:
      value: float [batch, views, dim]; or [batch, dim], one view; or a list of views [batch, dim].

    Raises:
      TypeError: it is neither a floating point array nor a list of them.
      ValueError: it has neither two nor three axes, or an axis of length 0; or views differ in
        shape or dtype.
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
            f"[batch, dim], got {describe(views)}; stack the rows of one array: jnp.stack(rows)"
        )
    if len({describe(view) for view in views}) > 1:
        raise ValueError(
            f"embeddings: expected views of one shape and dtype, got {describe(views)}; pad views "
            "that images lack, and mark them False in `where` [batch, views]"
        )
    return jnp.stack([jnp.asarray(view) for view in views], axis=1)


def labels(value: Any, batch: int, *, name: str = "labels", rename: bool = True) -> jax.Array:
    """Returns labels as integer [batch].

    64-bit labels that do not fit 32 bits are replaced by their ranks if jax would truncate them,
    because truncation could merge two classes. Only the equality of labels matters.

    Args:
      value: the caller's labels.
      batch: the expected number of labels.
      name: the argument's name, for messages.
      rename: whether labels may be replaced by ranks; False if they are compared with other labels.

    Raises:
      TypeError: the labels are not an integer array.
      ValueError: the shape is not [batch], or labels do not fit 32 bits and `rename` is False.
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
    """Returns two arrays of labels converted to a common dtype, so that they can be compared.

    Args:
      labels: integer, the argument `labels`.
      others: integer.
      name: name of `others`, for messages.

    Raises:
      TypeError: jax has no integer dtype that holds both.
    """
    both = np.promote_types(labels.dtype, others.dtype)
    if not np.issubdtype(both, np.integer) or jax.dtypes.canonicalize_dtype(both) != both:
        raise TypeError(
            f"labels: expected a dtype that can be compared with the {others.dtype} of {name}, "
            f"got {describe(labels)}; no available integer dtype holds both"
        )
    return labels.astype(both), others.astype(both)


def where(value: Any, batch: int, views: int | None = None) -> jax.Array:
    """Returns bool [batch] or [batch, views], as given; None means that no row is padding.

    Raises:
      TypeError: it is not a bool array.
      ValueError: the shape is neither [batch] nor, if `views` is given, [batch, views].
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
    """Returns a real scalar: a Python float, or a jax array of shape [].

    Raises:
      TypeError: it is neither a real number nor a real array.
      ValueError: it is an array of another shape.
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
    """Returns a scalar; raises ValueError if it is concrete and not positive and finite."""
    checked = scalar("temperature", value)
    if not isinstance(checked, jax.core.Tracer) and not 0.0 < float(checked) < float("inf"):
        raise ValueError(f"temperature: expected a positive finite number, got {float(checked):g}")
    return checked


def weight(name: str, value: Any) -> jax.Array | float:
    """Returns a scalar; raises ValueError if it is concrete and not in [0, 1]."""
    checked = scalar(name, value)
    if not isinstance(checked, jax.core.Tracer) and not 0.0 <= float(checked) <= 1.0:
        raise ValueError(f"{name}: expected a number in [0, 1], got {float(checked):g}")
    return checked
