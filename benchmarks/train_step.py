"""Times the parts of a training step, and its FLOP rate as a share of the device's.

python benchmarks/train_step.py --config=configs/digits.py [--steps=200] [--json=FILE]

The parts are timed separately in one run. The input pipeline is the time that the loop waits
(choosing, gathering and sending a batch). Augmentation and contrastive loss (value and gradient)
are compiled by themselves with the shapes of the step. Times are medians, with quartiles in
brackets.

"In one program" is a step with the training set on the devices (config.train.resident): the time of
a program of --window steps, divided by their number.

Model FLOPs are three times the forward pass of a step's views, by the definition of its layers
(thanos_jax/train/layer_flops.py), without padding and recomputation. Utilization is model FLOPs
over the time of the whole step, including augmentation, loss and optimizer, as a share of the rate
of square matrix products in the model's precision on the same devices in the same run.
--encoders=mlp,convnet times only the steps, with each of these encoders in turn.

--synthetic=N trains on N random images with the data set's shape and number of classes, if the data
are not available.
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
from random_data import random_dataset

from thanos_jax import command, sharding
from thanos_jax import config as schema
from thanos_jax.data import augment, batches, sources
from thanos_jax.data.splits import ArraySplit
from thanos_jax.models.thanos import DTYPES
from thanos_jax.train import resident
from thanos_jax.train.build import build
from thanos_jax.train.layer_flops import model_flops
from thanos_jax.train.objective import contrastive_loss
from thanos_jax.train.two_views import INPUTS, NUM_VIEWS, two_views
from thanos_jax.train.update import make_step

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_STEPS = flags.DEFINE_integer("steps", 200, "Timed repetitions of each part.", lower_bound=3)
_WINDOW = flags.DEFINE_integer("window", 20, "Steps in one program.", lower_bound=1)
_SYNTHETIC = flags.DEFINE_integer("synthetic", 0, "Number of random images; 0: the real data.")
_SIDE = flags.DEFINE_integer("side", 32, "Side of random images.")
_ENCODERS = flags.DEFINE_list("encoders", None, "Encoders to compare, instead of the parts.")
_JSON = flags.DEFINE_string("json", None, "File for the numbers.")


def timed(function: Callable[[], Any], repetitions: int) -> np.ndarray:
    """Returns the seconds of each call, after three calls to warm up."""
    seconds = []
    for repetition in range(repetitions + 3):
        start = time.perf_counter()
        jax.block_until_ready(function())
        if repetition >= 3:
            seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def matmul_rate(dtype: Any, size: int = 2048, repetitions: int = 10) -> float:
    """Returns the FLOP/s of square matrix products over all devices, median of `repetitions`."""
    count = jax.device_count()
    mesh = sharding.make_mesh()
    x = sharding.shard(mesh, np.ones((count, size, size), dtype))
    product = jax.jit(lambda x: jnp.einsum("dij,djk->dik", x, x))
    return float(2 * count * size**3 / np.median(timed(lambda: product(x), repetitions)))


def print_encoders(config: Any, dataset: Any, mesh: Any, names: Sequence[str], steps: int) -> None:
    """Times a step with each encoder, and matrix products; everything else is as in the config."""
    print("| encoder | ms a step | GFLOP a step | images a second | GFLOP/s | share of products |")
    print("|---|---|---|---|---|---|")
    for name in names:
        own = config.copy_and_resolve_references()
        own.model.encoder = name
        training = build(own, dataset, mesh)
        step, seed = make_step(training, two_views(training)), np.uint32(own.seed)
        batch_size = own.train.batch_size
        drawn = dataset.splits["train"].read(np.arange(batch_size))
        batch = sharding.shard(mesh, {name: drawn[name] for name in INPUTS})
        state = training.state

        def one_step() -> jax.Array:
            nonlocal state
            state, metrics = step(state, batch, seed)  # noqa: B023 - called in this round only
            return metrics["loss"]

        seconds = float(np.median(timed(one_step, steps)))
        rate = matmul_rate(DTYPES[own.model.dtype])
        reached = model_flops(training) / seconds
        cells = [
            f"{seconds * 1e3:.4g}",
            f"{reached * seconds / 1e9:.3g}",
            f"{batch_size / seconds:.4g}",
            f"{reached / 1e9:.3g}",
            f"{reached / rate:.0%} of {rate / 1e9:.3g}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main(argv: Sequence[str]) -> None:
    """Times the parts and prints their shares of the step."""
    config, steps = _CONFIG.value, _STEPS.value
    schema.check(config)
    started = time.perf_counter()
    if _SYNTHETIC.value:
        dataset = random_dataset(config, size=_SYNTHETIC.value, side=_SIDE.value)
    else:
        dataset = sources.load(config.data)
    loading = time.perf_counter() - started
    mesh = sharding.make_mesh()
    if _ENCODERS.value:
        print_encoders(config, dataset, mesh, _ENCODERS.value, steps)
        return
    training = build(config, dataset, mesh)
    step, seed = make_step(training, two_views(training)), np.uint32(config.seed)
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

    state = training.state

    def one_step() -> jax.Array:
        nonlocal state
        state, metrics = step(state, batch, seed)
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
            lambda v: training.model.apply(v, jnp.zeros((1, *training.input_shape)), train=False),
            variables,
        )
        dim = outputs["contrastive"].shape[-1]
        shape = (config.train.batch_size, NUM_VIEWS, dim)
        embeddings = jax.random.normal(key, shape, jnp.float32)
        gradient = jax.jit(jax.value_and_grad(contrastive))
        results["contrastive loss and gradient"] = timed(
            lambda: gradient(embeddings, batch["coarse"]), steps
        )

    if isinstance(split, ArraySplit):
        window = resident.make_window(
            step,
            split,
            mesh,
            seed=config.seed,
            batch_size=config.train.batch_size,
            longest=_WINDOW.value,
            inputs=INPUTS,
        )

        def one_window() -> jax.Array:
            nonlocal state
            state, metrics = window(state, 0, _WINDOW.value)
            return metrics["loss"]

        windows = timed(one_window, max(3, steps // _WINDOW.value))
        results["a step, in one program"] = windows / _WINDOW.value

    rate = matmul_rate(DTYPES[config.model.dtype])
    flops = model_flops(training)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{config.data.name}:{config.method}, batch {config.train.batch_size}, {device}")
    print(f"data set loaded in {loading:.1f} s, once")
    # The pipeline may run in parallel with the device; here it is counted as if it ran before.
    whole = np.median(results["step"]) + np.median(results["input pipeline"])
    for name, seconds in results.items():
        low, median, high = np.percentile(seconds, [25, 50, 75]) * 1e3
        print(f"{name:30s} {median:9.3f} ms [{low:.3f}, {high:.3f}]  {median / 1e3 / whole:6.1%}")
    print(f"images per second: {config.train.batch_size / whole:.0f}")
    reached = flops / np.median(results["step"])
    print(f"model: {flops / 1e9:.3g} GFLOP a step, {reached / 1e9:.4g} GFLOP/s")
    print(f"matrix products in {config.model.dtype}: {rate / 1e9:.4g} GFLOP/s")
    print(f"model FLOP utilization: {reached / rate:.1%}")
    if _JSON.value:
        numbers: dict[str, Any] = {
            name: float(np.median(seconds)) for name, seconds in results.items()
        }
        numbers |= {"model_flops": flops, "matmul_flops_per_second": rate}
        numbers |= {"device": device, "batch_size": config.train.batch_size, "loading": loading}
        pathlib.Path(_JSON.value).write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.start(main)
