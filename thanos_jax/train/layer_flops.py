"""FLOPs of a model by definition: the multiply-adds of its layers, independent of the backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from thanos_jax.train.build import Training
from thanos_jax.train.two_views import NUM_VIEWS


def model_flops(training: Training, *, views: int = NUM_VIEWS) -> float:
    """Returns the FLOPs of a training step: three times the forward pass of all views.

    A layer computes one product forward and two backward. The first layer computes only one
    backward, because the gradient with respect to images is not needed; it is counted in full, as
    is usual. Augmentation, losses and optimizer are not counted.

    Args:
      training: the training; its state may be shapes.
      views: number of views of each image.
    """
    return 3 * forward_flops(training) * training.config.train.batch_size * views


def forward_flops(training: Training) -> float:
    """Returns the FLOPs of products and convolutions in the forward pass of one image.

    A multiply-add counts as two FLOPs.
    """

    def forward(variables: Any, image: jax.Array) -> Any:
        return training.model.apply(variables, image, train=False)

    state = training.state
    variables = {"params": state.params, **state.model_state}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    image = jax.ShapeDtypeStruct((1, *training.input_shape), jnp.float32)
    return 2.0 * multiply_adds(forward, shapes, image)


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the multiply-adds of the matrix products and convolutions of a function.

    A convolution counts the pixels under its kernel, but not padding or the zeros between the
    pixels of a transposed convolution. If platforms compute a layer in different ways, the cheapest
    one is counted. The body of a loop counts once per iteration.

    Args:
      function: the function; it is traced, not run.
      *arguments: arrays or `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: the length of a loop or the cost of a branch is unknown without running it.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    platforms = [
        equation.outvars[0]
        for equation in jaxpr.eqns
        if equation.primitive.name == "platform_index"
    ]
    return sum(
        _of_branches(equation, any(equation.invars[0] is index for index in platforms))
        if equation.primitive.name == "cond"
        else _of_equation(equation)
        for equation in jaxpr.eqns
    )


def _of_branches(equation: core.JaxprEqn, by_platform: bool) -> int:
    """Returns the count of a `cond`; with `by_platform`, its branches compute the same result."""
    counts = {_of_jaxpr(branch.jaxpr) for branch in equation.params["branches"]}
    if len(counts) > 1 and not by_platform:
        raise ValueError(f"function: expected branches of one cost, got costs {sorted(counts)}")
    return min(counts)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape, result = _shape(equation.invars[0]), _shape(equation.outvars[0])
        return math.prod(result) * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
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
