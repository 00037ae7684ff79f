"""FLOPs of the products in a function, from its jaxpr: what is written, before any compiler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def of_products(function: Callable[..., Any], *shapes: Any) -> float:
    """Counts the matrix products and convolutions of a function; loops are not expected.

    Args:
      function: of arrays.
      *shapes: pytrees of arrays or of what has their shape and dtype.

    Returns:
      Two for each multiplication and its addition. A convolution counts as many as its kernel has
      places, at the borders too.
    """
    return sum(map(_flops, _equations(jax.make_jaxpr(function)(*shapes).jaxpr)))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, those of the functions it calls instead of the calls."""
    for equation in jaxpr.eqns:
        inner = [
            getattr(value, "jaxpr", value)
            for value in equation.params.values()
            if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
        ]
        assert equation.primitive.name not in ("scan", "while", "cond"), "not counted"
        for one in inner[:1]:  # a custom derivative's first is the function itself
            yield from _equations(one)
        if not inner:
            yield equation


def _flops(equation: Any) -> float:
    shapes = [variable.aval.shape for variable in equation.invars]
    (result,) = [variable.aval.shape for variable in equation.outvars][:1] or [()]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * math.prod(result) * math.prod(shapes[0][axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        output_channels = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(result) * math.prod(shapes[1]) / output_channels
    return 0.0
