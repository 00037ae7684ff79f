"""Where a train step's time goes: input pipeline, augmentation, contrastive loss, the rest.

python benchmarks/train_step.py --config=configs/digits.py [--steps=200] [--json=FILE]

The parts are timed alone, side by side in one run: the input pipeline is what the loop waits for
(choosing, gathering and sending a batch), augmentation and contrastive loss (value and gradient)
are compiled by themselves on the shapes of the step. Medians; in brackets the quartiles.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from thanos_jax import command, run, sharding
from thanos_jax import config as schema
from thanos_jax.data import augment, batches, sources
from thanos_jax.train.objective import contrastive_loss
from thanos_jax.train.step import INPUTS, NUM_VIEWS

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_STEPS = flags.DEFINE_integer("steps", 200, "Timed repetitions of each part.", lower_bound=3)
_JSON = flags.DEFINE_string("json", None, "Where to write the numbers, if anywhere.")


def timed(function: Callable[[], Any], repetitions: int) -> np.ndarray:
    """Returns the seconds of each call, after three calls to warm up."""
    seconds = []
    for repetition in range(repetitions + 3):
        start = time.perf_counter()
        jax.block_until_ready(function())
        if repetition >= 3:
            seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def main(argv: Sequence[str]) -> None:
    """Times the parts and prints their shares of the step."""
    config, steps = _CONFIG.value, _STEPS.value
    schema.check(config)
    started = time.perf_counter()
    dataset = sources.load(config.data)
    loading = time.perf_counter() - started
    mesh = sharding.make_mesh()
    parts = run.build(config, dataset, mesh)
    split = dataset.splits["train"]
    stream = batches.train_batches(
        split,
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=0,
        last_step=steps + 3,
        read_threads=config.data.read_threads,
    )

    def next_batch() -> dict[str, jax.Array]:
        batch = next(stream)
        return sharding.shard(mesh, {name: batch[name] for name in INPUTS})

    batch = next_batch()

    state = parts.state

    def one_step() -> jax.Array:
        nonlocal state
        state, metrics = parts.step(state, batch)
        return metrics["loss"]

    results = {"step": timed(one_step, steps)}
    results["input pipeline"] = timed(next_batch, steps - 1)

    augmentation = config.augment.to_dict()
    views = jax.jit(lambda key, x: augment.views(key, x, NUM_VIEWS, **augmentation))
    key = jax.random.key(0)
    results["augmentation"] = timed(lambda: views(key, batch["image"]), steps)

    contrastive = contrastive_loss(config.method, config.loss, mesh)
    if contrastive is not None:
        variables = {"params": state.params, **state.model_state}
        outputs = jax.eval_shape(
            lambda v: parts.model.apply(v, jnp.zeros((1, *parts.input_shape)), train=False),
            variables,
        )
        dim = outputs["contrastive"].shape[-1]
        shape = (config.train.batch_size, NUM_VIEWS, dim)
        embeddings = jax.random.normal(key, shape, jnp.float32)
        gradient = jax.jit(jax.value_and_grad(contrastive))
        results["contrastive loss and gradient"] = timed(
            lambda: gradient(embeddings, batch["coarse"]), steps
        )

    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{config.data.name}:{config.method}, batch {config.train.batch_size}, {device}")
    print(f"data set loaded in {loading:.1f} s, once")
    # The pipeline runs beside the device or before it; here it is taken to be before it.
    whole = np.median(results["step"]) + np.median(results["input pipeline"])
    for name, seconds in results.items():
        low, median, high = np.percentile(seconds, [25, 50, 75]) * 1e3
        print(f"{name:30s} {median:9.3f} ms [{low:.3f}, {high:.3f}]  {median / 1e3 / whole:6.1%}")
    print(f"images per second: {config.train.batch_size / whole:.0f}")
    if _JSON.value:
        numbers = {name: float(np.median(seconds)) for name, seconds in results.items()}
        numbers |= {"device": device, "batch_size": config.train.batch_size, "loading": loading}
        pathlib.Path(_JSON.value).write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.start(main)
