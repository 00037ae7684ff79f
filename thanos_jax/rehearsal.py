"""Describes a training without running it: shapes, sizes, memory, and the time of a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import numpy as np

from thanos_jax import agree, sharding
from thanos_jax.data import batches
from thanos_jax.data.splits import Split
from thanos_jax.tasks import stages, tracing
from thanos_jax.train import cost, layer_flops, loop, resident
from thanos_jax.train.state import TrainState
from thanos_jax.train.two_views import NUM_VIEWS
from thanos_jax.train.units import in_bytes, in_time, with_prefix

_PARTS = {"params": "parameters", "opt_state": "optimizer", "model_state": "running statistics"}


class Rehearsal:
    """A training whose state has only shapes.

    Attributes:
      name: of the training.
      seconds: time of a step; None before it is timed.
    """

    def __init__(self, run: stages.Run, name: str, planned: stages.Planned) -> None:
        """Builds the training; compiles nothing.

        Args:
          run: the run of the training, with `shapes_only`.
          name: of the training.
          planned: the training.

        Raises:
          ConfigError, ValueError: as the training would.
        """
        self.name, self.seconds = name, cast(float | None, None)
        self._run = run._replace(config=planned.config, dataset=planned.dataset)
        self._stage = _stage(self._run, name)
        self._batch = tracing.batch_shapes(self._stage)

    def shapes(self) -> Iterator[str]:
        """Traces the step, and yields lines on batch, modules, FLOPs and sizes.

        Raises:
          ConfigError, ValueError: errors of the step that the schema cannot find.
        """
        tracing.trace(self._stage)
        training, state = self._stage.training, self._stage.state
        train, views = training.config.train, self._views
        given = ", ".join(f"{name} {x.dtype} {list(x.shape)}" for name, x in self._batch.items())
        rows = train.batch_size * views
        yield f"a batch: {given}; views seen by the model: {rows}"
        found = cost.modules(training, rows)
        cells = [
            (one.name, " ".join(str(list(shape)) for shape in one.outputs), f"{one.parameters:,}")
            for one in found
        ]
        yield from _table([("module", "output", "parameters"), *cells])
        count = layer_flops.model_flops(training, views=views)
        if _is_classifier(self.name):
            yield (
                "all images have weight 1 here: weights of groups, targets of labels and a second"
                " network are not counted"
            )
        yield f"{with_prefix(count)}FLOP a step in its layers, forwards and backwards"
        sizes = {words: cost.nbytes(getattr(state, part)) for part, words in _PARTS.items()}
        parts = ", ".join(f"{words} {in_bytes(size)}" for words, size in sizes.items() if size)
        yield f"state on each device: {in_bytes(cost.nbytes(state))}: {parts}"
        yield (
            f"disk: up to {in_bytes(cost.nbytes(state))} a checkpoint, of which the newest "
            f"{train.checkpoints_kept} and the best stay"
        )
        if self._resident:
            image = self._batch["image"]
            size = len(self._stage.split) * cost.nbytes(image) // train.batch_size
            yield f"training images on each device: {in_bytes(size)} (train.resident)"

    def compiled(self, *, timed: bool) -> Iterator[str]:
        """Compiles the run's program, runs a few steps, and yields lines on memory and time.

        Args:
          timed: whether to run steps, for which the images are needed.
        """
        mesh = self._stage.training.mesh
        what = f"a program of up to {self._longest} steps" if self._resident else "a step"
        started = time.perf_counter()
        program, failure = _tried(self._compiled)
        if failure:  # for instance if the compiler finds that the device's memory is too small
            yield f"{what} does not compile here: {failure}"
            return
        yield f"{what} compiles in {in_time(time.perf_counter() - started)}"
        devices = f" on each of {mesh.size} devices" if mesh.size > 1 else ""
        memory, count = cost.memory(program), cost.flops(program)
        if memory is not None:
            yield (
                f"memory of {what}{devices}: peak {in_bytes(sum(memory))} or less, arguments "
                f"{in_bytes(memory.arguments)}, temporaries {in_bytes(memory.temporaries)}"
            )
        if count is not None:
            yield (
                f"{with_prefix(count)}FLOP a step{devices} by the compiler, which counts all "
                "operations, and the body of a loop once"
            )
        if not timed:
            yield "not timed: the images are missing"
            return
        started = time.perf_counter()
        given, failure = _tried(self._advance if self._resident else self._first_batch)
        read = in_time(time.perf_counter() - started)
        if not failure:
            state, failure = _tried(self._first_state)
        if not failure:
            try:
                if self._resident:
                    self.seconds = cost.seconds_in_windows(given, state, self._longest)
                else:
                    self.seconds = cost.seconds(program, state, given)
            except jax.errors.JaxRuntimeError as error:
                if jax.process_count() > 1:  # the others wait in a step until this process ends
                    raise
                failure = _first_line(error)
        if self.seconds is None:
            yield f"not timed: {failure}"
            return
        first = (
            "the images were put on the devices" if self._resident else "the first batch was read"
        )
        yield f"{in_time(self.seconds)} a step here; {first} in {read}"

    @property
    def _views(self) -> int:
        return 1 if _is_classifier(self.name) else NUM_VIEWS

    @property
    def _resident(self) -> bool:
        return loop.on_devices(self._stage.training.config.train.resident, self._stage.split)

    @property
    def _longest(self) -> int:
        return loop.longest_window(self._stage.training)

    def _compiled(self) -> Any:
        """Compiles the program that the run uses: one step, or many."""
        stage, longest = self._stage, self._longest
        if not self._resident:
            return cost.compiled(stage.training, stage.step, stage.state, self._batch)
        stored, indices = resident.program_shapes(
            stage.split, stage.training.mesh, self._batch, longest=longest
        )
        window = resident.make_program(stage.step, longest=longest)
        return cost.compiled(
            stage.training, window, stage.state, stored, indices, np.int32(longest)
        )

    def _advance(self) -> loop.Advance:
        return loop.make_advance(self._stage, first=0)[0]

    def _first_state(self) -> TrainState:
        run = self._run._replace(shapes_only=False)
        return stages.built(run, run.config, self.name).state

    def _first_batch(self) -> dict[str, jax.Array]:
        stage = self._stage
        training, config = stage.training, stage.training.config
        batch = next(
            batches.train_batches(
                cast(Split, sharding.LocalRows(stage.split, training.mesh)),
                seed=config.seed,
                batch_size=config.train.batch_size,
                first_step=0,
                last_step=1,
                balance=training.balance,
                read_threads=config.data.read_threads,
            )
        )
        return sharding.shard(training.mesh, {name: batch[name] for name in stage.inputs})


def _stage(run: stages.Run, name: str) -> loop.Stage:
    """Builds a training without results of the trainings before it.

    All images of a classifier have weight 1: the weights of groups, targets of early-learning
    regularization and the second network of co-teaching are left out.
    """
    if _is_classifier(name):
        return stages.classifier(run, name=name, config=run.config)
    return stages.representation(run, name)


def _is_classifier(name: str) -> bool:
    """Whether the training of this name is of a classifier on one view of each image."""
    return name in ("classifier", "identification")


def _tried(make: Callable[[], Any]) -> tuple[Any, str]:
    """Returns the result of `make`, and the reason if it failed in some process.

    Every process makes this call. The next step waits for all processes: either all of them start
    it, or none.
    """
    made, failure = None, ""
    try:
        made = make()
    except jax.errors.JaxRuntimeError as error:
        failure = _first_line(error)
    if not agree.everywhere(not failure):
        failure = failure or "another process failed at it"
    return made, failure


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, output, number in rows:
        yield f"    {name:{widths[0]}}  {output:{widths[1]}}  {number:>{widths[2]}}"
