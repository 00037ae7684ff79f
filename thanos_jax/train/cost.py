"""What a step costs before it is run: shapes, parameters, FLOPs, memory, and a time to measure."""

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

# Modules deeper in the model are counted with the one that holds them.
_DEPTH = 2
# Steps that are timed, and the seconds after which no further one begins.
_STEPS, _SECONDS = 4, 5.0
_WINDOW_SECONDS = 2.0  # of the steps of one program that are timed


class Module(NamedTuple):
    """A module of a model.

    Attributes:
      name: its path, parts joined by "/".
      outputs: shape of each array that it returns, for a batch.
      parameters: in it and all modules below it.
    """

    name: str
    outputs: tuple[tuple[int, ...], ...]
    parameters: int


class Memory(NamedTuple):
    """Bytes on each device while a step runs.

    Attributes:
      arguments: state, batch and seed.
      results: those that do not take the place of an argument.
      temporaries: what the program needs beside its arguments and results.
    """

    arguments: int
    results: int
    temporaries: int


def modules(training: Training, rows: int) -> list[Module]:
    """Returns the modules of a model down to the second level, in the order of their names.

    Args:
      training: its state may be shapes.
      rows: images that the model is called on, views included.
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
    """Returns the numbers in a pytree of arrays, or of their shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
    """Returns the bytes of a pytree of arrays, or of their shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compiled(
    training: Training, step: Any, state: TrainState, batch: Mapping[str, Any], *rest: Any
) -> Any:
    """Compiles a step, and runs nothing. The program is kept as a run's is: the run finds it.

    Args:
      training: of the step.
      step: from `thanos_jax.train.update.make_step`, or `thanos_jax.train.resident.make_program`.
      state: arrays, or `jax.ShapeDtypeStruct`.
      batch: name -> `jax.ShapeDtypeStruct`, with its placement.
      *rest: what the step takes after the seed.

    Returns:
      A `jax.stages.Compiled` of (state, batch, seed, *rest).
    """
    everywhere = NamedSharding(training.mesh, P())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
    )
    return step.lower(shapes, batch, np.uint32(0), *rest).compile()


def memory(program: Any) -> Memory | None:
    """Returns what a compiled program needs on each device; None: the backend does not say."""
    found = program.memory_analysis()
    if found is None:
        return None
    return Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )


def flops(program: Any) -> float | None:
    """Returns what a compiled program computes on each device; None: the backend does not say.

    The compiler's count of all operations; it counts the body of a loop once.
    """
    found = (program.cost_analysis() or {}).get("flops")
    return None if found is None or found < 0 else float(found)


def seconds(program: Any, state: TrainState, batch: Mapping[str, jax.Array]) -> float:
    """Runs a few steps and returns the median of their times; every process makes this call.

    The first step does not count, unless it takes so long that it is the only one. The clock of the
    first process says how many there are: each step waits for all processes.

    Args:
      program: from `compiled`.
      state: arrays, which are donated.
      batch: arrays, placed.
    """
    times: list[float] = []
    while agree.value_of_first(lambda: len(times) < _STEPS and sum(times) < _SECONDS):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batch, np.uint32(0)))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times)


def seconds_in_windows(advance: Advance, state: TrainState, longest: int) -> float:
    """Runs steps of one program and returns the time of a step; every process makes this call.

    Args:
      advance: from `thanos_jax.train.loop.make_advance`.
      state: arrays, which are donated.
      longest: the most steps of a call.
    """

    def timed(state: TrainState, steps: int) -> tuple[TrainState, float]:
        started = time.perf_counter()
        state, _ = jax.block_until_ready(advance(state, 0, steps))
        return state, time.perf_counter() - started

    state, _ = timed(state, 1)  # which compiles
    state, one = timed(state, 1)
    # Many: a call takes time beside its steps.
    steps = agree.value_of_first(lambda: min(longest, int(_WINDOW_SECONDS / one)))
    return timed(state, steps)[1] / steps if steps > 1 else one
