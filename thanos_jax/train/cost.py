"""The cost of a training step: shapes, parameters, FLOPs, memory, and measured time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import agree
from thanos_jax.train.build import Training
from thanos_jax.train.loop import Advance
from thanos_jax.train.state import TrainState

# Modules below this depth are counted with their parent.
_DEPTH = 2
# Number of timed steps, and the seconds after which no further step is started.
_STEPS, _SECONDS = 4, 5.0
_WINDOW_SECONDS = 2.0  # duration of a timed window of steps


class Module(NamedTuple):
    """A module of a model.

    Attributes:
      name: its path, parts joined by "/".
      outputs: shape of each output array, for a batch.
      parameters: number of parameters, including all modules below it.
    """

    name: str
    outputs: tuple[tuple[int, ...], ...]
    parameters: int


class Memory(NamedTuple):
    """Bytes on each device while a step runs.

    Attributes:
      arguments: state, batch and seed.
      results: results that do not reuse the memory of an argument.
      temporaries: further memory of the program.
    """

    arguments: int
    results: int
    temporaries: int


def modules(training: Training, rows: int) -> list[Module]:
    """Returns the modules of a model down to the second level, ordered by name.

    Args:
      training: the training; its state may be shapes.
      rows: number of images in a call of the model, including views.
    """
    model, state = training.model, training.state

    def call(variables: Any, images: Any) -> Any:
        def kept(module: Any, method: str) -> bool:
            return method == "__call__" and 0 < len(module.path) <= _DEPTH

        return model.apply(
            variables,
            images,
            train=False,
            capture_intermediates=kept,
            mutable=["intermediates"],
        )[1]["intermediates"]

    images = jax.ShapeDtypeStruct((rows, *training.input_shape), jnp.float32)
    found = jax.eval_shape(call, {"params": state.params, **state.model_state}, images)
    return _modules(found, state.params, ())


def _modules(found: Mapping[str, Any], params: Any, path: tuple[str, ...]) -> list[Module]:
    listed = []
    if "__call__" in found:
        shapes = tuple(x.shape for x in jax.tree.leaves(found["__call__"]))
        listed.append(Module("/".join(path), shapes, size(params)))
    for name, inner in found.items():
        if name != "__call__":
            listed += _modules(inner, params.get(name, {}), (*path, name))
    return listed


def size(tree: Any) -> int:
    """Returns the number of elements in a pytree of arrays or shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
    """Returns the number of bytes of a pytree of arrays or shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compiled(
    training: Training, step: Any, state: TrainState, batch: Mapping[str, Any], *rest: Any
) -> Any:
    """Compiles a step without running it. A run finds the program in the compilation cache.

    Args:
      training: the training of the step.
      step: from `thanos_jax.train.update.make_step`, or `thanos_jax.train.resident.make_program`.
      state: pytree of arrays or `jax.ShapeDtypeStruct`.
      batch: name -> `jax.ShapeDtypeStruct` with sharding.
      *rest: further arguments of the step, after the seed.

    Returns:
      A `jax.stages.Compiled` of (state, batch, seed, *rest).
    """
    everywhere = NamedSharding(training.mesh, P())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
    )
    return step.lower(shapes, batch, np.uint32(0), *rest).compile()


def memory(program: Any) -> Memory | None:
    """Returns the memory of a compiled program on each device; None if the backend has no data."""
    found = program.memory_analysis()
    if found is None:
        return None
    return Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )


def flops(program: Any) -> float | None:
    """Returns the FLOPs of a compiled program on each device; None if the backend has no data.

    This is the compiler's count of all operations; it counts the body of a loop once.
    """
    found = (program.cost_analysis() or {}).get("flops")
    return None if found is None or found < 0 else float(found)


def seconds(program: Any, state: TrainState, batch: Mapping[str, jax.Array]) -> float:
    """Runs a few steps and returns their median time in seconds; every process must call this.

    The first step is not counted, unless it takes so long that it is the only one. The clock of the
    first process decides the number of steps, because each step waits for all processes.

    Args:
      program: from `compiled`.
      state: pytree of arrays, which are donated.
      batch: name -> array on the devices.
    """
    times: list[float] = []
    while agree.value_of_first(lambda: len(times) < _STEPS and sum(times) < _SECONDS):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batch, np.uint32(0)))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times)


def seconds_in_windows(advance: Advance, state: TrainState, longest: int) -> float:
    """Times steps that run in one program; every process must make this call.

    Args:
      advance: from `thanos_jax.train.loop.make_advance`.
      state: pytree of arrays, which are donated.
      longest: largest number of steps of a call.

    Returns:
      The time of a step in seconds.
    """

    def timed(state: TrainState, steps: int) -> tuple[TrainState, float]:
        started = time.perf_counter()
        state, _ = jax.block_until_ready(advance(state, 0, steps))
        return state, time.perf_counter() - started

    state, _ = timed(state, 1)  # compiles
    state, one = timed(state, 1)
    # Many steps, because a call has overhead.
    steps = agree.value_of_first(lambda: min(longest, int(_WINDOW_SECONDS / one)))
    return timed(state, steps)[1] / steps if steps > 1 else one
