"""A training of a run, described and tried without the run: shapes, memory, a few steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax

from thanos_jax import sharding
from thanos_jax.data import batches
from thanos_jax.data.splits import Split
from thanos_jax.tasks import stages
from thanos_jax.train import cost, layer_flops, loop
from thanos_jax.train.two_views import NUM_VIEWS
from thanos_jax.train.units import in_bytes, in_time, with_prefix

_PARTS = {"params": "parameters", "opt_state": "optimizer", "model_state": "running statistics"}


class Rehearsal:
    """A training whose state is one of shapes.

    Attributes:
      name: of the training.
      seconds: of a step; None as long as none was timed.
    """

    def __init__(self, run: stages.Run, name: str, planned: stages.Planned) -> None:
        """Builds the training; compiles nothing.

        Args:
          run: whose training it is; `shapes_only`.
          name: of the training.
          planned: the training.

        Raises:
          ConfigError, ValueError: as the training would.
        """
        self.name, self.seconds = name, cast(float | None, None)
        self._run, self._planned = run, planned
        self._stage = stages.rehearsal(run, name, planned)
        self._batch = stages.batch_shapes(self._stage)

    def shapes(self) -> Iterator[str]:
        """Traces the step, and yields lines on batch, modules, FLOPs and sizes.

        Raises:
          ConfigError, ValueError: what the schema cannot find and the step would.
        """
        stages.trace(self._stage)
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
        if stages.is_classifier(self.name):
            yield (
                "images weigh alike here: weights of groups, targets of labels and a second network"
                " are not counted"
            )
        yield f"{with_prefix(count)}FLOP a step in its layers, forwards and backwards"
        sizes = {words: cost.nbytes(getattr(state, part)) for part, words in _PARTS.items()}
        parts = ", ".join(f"{words} {in_bytes(size)}" for words, size in sizes.items() if size)
        yield f"state on each device: {in_bytes(cost.nbytes(state))}: {parts}"
        yield (
            f"disk: up to {in_bytes(cost.nbytes(state))} a checkpoint, of which the newest "
            f"{train.checkpoints_kept} and the best stay"
        )
        if loop.on_devices(train.resident, self._stage.split):
            image = self._batch["image"]
            size = len(self._stage.split) * cost.nbytes(image) // train.batch_size
            yield f"training images on each device: {in_bytes(size)} (train.resident)"

    def compiled(self, *, timed: bool) -> Iterator[str]:
        """Compiles a step, runs a few, and yields lines on memory and time.

        Args:
          timed: whether the images are there, and steps are run.
        """
        stage, mesh = self._stage, self._stage.training.mesh
        started = time.perf_counter()
        try:
            program = cost.compiled(stage.training, stage.step, stage.state, self._batch)
        except jax.errors.JaxRuntimeError as error:  # as where a compiler knows the device's memory
            yield f"a step does not compile here: {str(error).splitlines()[0]}"
            return
        yield f"a step compiles in {in_time(time.perf_counter() - started)}"
        devices = f" on each of {mesh.size} devices" if mesh.size > 1 else ""
        memory, count = cost.memory(program), cost.flops(program)
        if memory is not None:
            yield (
                f"memory of a step{devices}: peak {in_bytes(sum(memory))} or less, arguments "
                f"{in_bytes(memory.arguments)}, temporaries {in_bytes(memory.temporaries)}"
            )
        if count is not None:
            yield (
                f"{with_prefix(count)}FLOP a step{devices} by the compiler, which counts all "
                "operations, and the body of a loop once"
            )
        if not timed:
            yield "not timed: the images are not there"
            return
        try:
            self.seconds, read = self._time(program)
        except jax.errors.JaxRuntimeError as error:
            yield f"not timed: {str(error).splitlines()[0]}"
            return
        yield f"{in_time(self.seconds)} a step here; the first batch was read in {in_time(read)}"

    @property
    def _views(self) -> int:
        return 1 if stages.is_classifier(self.name) else NUM_VIEWS

    def _time(self, program: Any) -> tuple[float, float]:
        """Returns the seconds of a step, and to read its batch."""
        stage = stages.rehearsal(self._run._replace(shapes_only=False), self.name, self._planned)
        training, config = stage.training, stage.training.config
        started = time.perf_counter()
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
        read = time.perf_counter() - started
        given = sharding.shard(training.mesh, {name: batch[name] for name in stage.inputs})
        return cost.seconds(program, stage.state, given), read


def _table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, output, number in rows:
        yield f"    {name:{widths[0]}}  {output:{widths[1]}}  {number:>{widths[2]}}"
