"""Measures the share of training time that checkpoints take, at one save a minute.

python benchmarks/checkpoint_overhead.py [--config=configs/mnist.py:thanos,vit] [--steps=5]
    [--saves=3] [--folder=DIR] [--json=FILE]

A save costs the loop twice: the call copies the state to the host, and the following steps share
the processors with the thread that writes. The second cost is the time of these steps beyond the
median step before the save. The state is the config's; the images are one random batch, so no data
are needed. Each step is waited for. On a busy machine numbers vary: raise --steps and --saves. The
folder should be on the disk that runs use.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from random_data import random_dataset

from thanos_jax import command, sharding
from thanos_jax import config as schema
from thanos_jax.train import checkpoint
from thanos_jax.train.build import build
from thanos_jax.train.two_views import INPUTS, two_views
from thanos_jax.train.update import make_step

_CONFIG = config_flags.DEFINE_config_file("config", "configs/mnist.py:thanos,vit", lock_config=True)
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps before each save.", lower_bound=1)
_SAVES = flags.DEFINE_integer("saves", 3, "Timed saves.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 28, "Side of the random images.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", None, "Parent of the temporary folder; None: the system's.")
_JSON = flags.DEFINE_string("json", None, "Where to write the numbers, if anywhere.")

_PERIOD = 60.0  # seconds from save to save


def measure(
    advance: Callable[[], Any],
    state: Callable[[], Any],
    folder: pathlib.Path,
    *,
    steps: int,
    saves: int,
) -> dict[str, Any]:
    """Times steps with and without a save in parallel.

    Args:
      advance: takes a step and waits for it.
      state: returns the current state.
      folder: for checkpoints.
      steps: number of steps before each save.
      saves: number of saves.

    Returns:
      Medians over saves, in seconds: a "step"; the "call" of the save; the steps until the
      checkpoint is written ("write"); and how much longer these steps took than usual ("delay").
      "share" is the share of call and delay in a minute, "bytes" the size of a checkpoint.
    """

    def timed() -> float:
        start = time.perf_counter()
        advance()
        return time.perf_counter() - start

    timed()  # compiles
    found: dict[str, list[float]] = {"step": [], "call": [], "write": [], "delay": [], "share": []}
    with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        for number in range(saves):
            alone = float(np.median([timed() for _ in range(steps)]))
            start = time.perf_counter()
            checkpoints.save(state(), number)
            call = time.perf_counter() - start
            beside = [timed()]
            while number not in checkpoint.steps(folder):
                checkpoints.check()
                beside.append(timed())
            checkpoints.wait()
            delay = sum(beside) - alone * len(beside)
            values = (alone, call, sum(beside), delay, (call + delay) / _PERIOD)
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {name: float(np.median(values)) for name, values in found.items()} | {"bytes": size}


def main(argv: Sequence[str]) -> None:
    """Prints the costs of a save."""
    config = _CONFIG.value
    schema.check(config)
    dataset = random_dataset(config, size=config.train.batch_size, side=_SIDE.value)
    mesh = sharding.make_mesh()
    training = build(config, dataset, mesh)
    step, seed = make_step(training, two_views(training)), np.uint32(config.seed)
    split = dataset.splits["train"]
    rows = split.read(np.arange(len(split)))
    batch = sharding.shard(mesh, {name: rows[name] for name in INPUTS})
    state = training.state

    def advance() -> None:
        nonlocal state
        state, metrics = step(state, batch, seed)
        jax.block_until_ready((state, metrics))

    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        found = measure(
            advance,
            lambda: state,
            pathlib.Path(folder) / "checkpoints",
            steps=_STEPS.value,
            saves=_SAVES.value,
        )
    found["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(
        f"{config.data.name}:{config.method}, {config.model.encoder}, batch "
        f"{config.train.batch_size}, {found['device']}; {found['bytes'] / 1e6:.1f} MB"
    )
    print(f"a step                        {found['step'] * 1e3:10.1f} ms")
    print(f"the call of a save            {found['call'] * 1e3:10.1f} ms")
    print(f"steps until it is written     {found['write'] * 1e3:10.1f} ms")
    print(f"of these, delay by the write  {found['delay'] * 1e3:10.1f} ms")
    print(f"share of time, one save a minute: {found['share']:.2%}")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command.start(main)
