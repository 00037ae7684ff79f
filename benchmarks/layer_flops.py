"""What a model costs by definition: the multiply-adds of its layers, whoever computes them how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the multiply-adds of the matrix products and convolutions of a function.

    A convolution counts the pixels that its kernel meets, not those of the padding, nor zeros
    between the pixels of a transposed one. Where a platform has a way of its own to compute a
    layer, the one with the fewest counts. A loop counts as often as it runs.

    Args:
      function: traced, not run.
      *arguments: arrays, or `jax.ShapeDtypeStruct` in their place.

    Raises:
      ValueError: a loop whose length is not known without running it.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape, result = _shape(equation.invars[0]), _shape(equation.outvars[0])
        return math.prod(result) * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "cond":
        return min(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
    if name == "while":
        raise ValueError("function: expected loops of known length, got a while loop")
    inner = [getattr(x, "jaxpr", x) for x in params.values()]
    total = sum(_of_jaxpr(x) for x in inner if isinstance(x, core.Jaxpr))
    return total * int(params["length"]) if name == "scan" else total


def _of_convolution(equation: core.JaxprEqn) -> int:
    params = equation.params
    numbers = params["dimension_numbers"]
    inputs, kernel = map(_shape, equation.invars)
    output = _shape(equation.outvars[0])
    met = 1
    for i, (low, _) in enumerate(params["padding"]):
        spread, step = params["lhs_dilation"][i], params["window_strides"][i]
        last = (inputs[numbers.lhs_spec[i + 2]] - 1) * spread
        places = np.arange(output[numbers.out_spec[i + 2]])[:, None] * step - low
        taps = np.arange(kernel[numbers.rhs_spec[i + 2]]) * params["rhs_dilation"][i]
        pixels = places + taps
        met *= int(((pixels >= 0) & (pixels <= last) & (pixels % spread == 0)).sum())
    batch, channels = (output[i] for i in numbers.out_spec[:2])
    return int(met * batch * channels * kernel[numbers.rhs_spec[1]])


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)
