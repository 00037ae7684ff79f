"""Times a training step with its input, compared with the same model and losses in PyTorch.

python benchmarks/training.py --config=configs/mnist.py:supcon --config.data.data_dir=DATA \
    [--turns=3] [--peer_steps=10] [--workers=2] [--json=FILE]

This package: the loop of `thanos_jax.main`, with its input and its augmentation on the device.
PyTorch: the same MLP, SupConLoss of pytorch-metric-learning, AdamW, and the same augmentation by
torchvision, image by image in worker processes of a DataLoader, as in SupContrast's code. lightly:
its data set and transforms under pytorch_lightning's Trainer, with the same SupConLoss, because
lightly has none. Packages that are not installed are named and left out. PyTorch runs in a separate
process, in turns with this one. First, both must give the same loss and gradient norm for the same
batch and weights.

"step" is without input and augmentation: its batch is ready in memory, normalized for PyTorch,
uint8 here. The parts of a step are timed separately. Times are medians over the turns. Processor
time counts all threads and worker processes, and depends little on other load of the machine. Model
FLOPs are three times the forward pass (thanos_jax/train/layer_flops.py); utilization is their rate
as a share of the rate of square matrix products in the same turns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from random_data import random_dataset
from train_step import matmul_rate, timed

from thanos_jax import command, sharding
from thanos_jax import config as schema
from thanos_jax.data import augment, batches, sources
from thanos_jax.data.splits import ArraySplit
from thanos_jax.errors import ConfigError
from thanos_jax.models.thanos import DTYPES
from thanos_jax.train import loop, resident, update
from thanos_jax.train.build import Training, build
from thanos_jax.train.layer_flops import model_flops
from thanos_jax.train.objective import contrastive_loss
from thanos_jax.train.two_views import INPUTS, NUM_VIEWS, two_views

FLAGS = flags.FLAGS
flags.DEFINE_integer("turns", 3, "Number of turns in which each is timed.", lower_bound=1)
flags.DEFINE_integer("peer_steps", 10, "Steps of a peer in a turn, with its input.", lower_bound=2)
flags.DEFINE_integer("workers", 2, "Worker processes of the peers' DataLoader.", lower_bound=0)

_PACKAGES = {
    "PyTorch": ("torch", "torchvision", "pytorch_metric_learning"),
    "lightly": ("torch", "torchvision", "pytorch_metric_learning", "lightly", "pytorch_lightning"),
}
_TOLERANCE = 1e-4  # of loss and gradient norm between the two
_OFF = {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter_probability": 0.0, "grey_probability": 0.0}

Ask = Callable[[str, int], Any]


def require(config: Any) -> None:
    """Raises ConfigError for a training that the peers do not have."""
    for key, expected in (
        ("method", "supcon"),
        ("model.encoder", "mlp"),
        ("model.projection", ()),
        ("train.optimizer", "adamw"),
        ("train.micro_batch_size", 0),
        ("loss.denominator", "all"),
        ("loss.views", "all"),
    ):
        got = schema.flatten(config)[key]
        if got != expected:
            raise ConfigError(f"config.{key}: expected {expected!r} beside PyTorch, got {got!r}")


class Ours:
    """The training and its parts, as `thanos_jax.main` runs them."""

    def __init__(self, config: Any, dataset: sources.Dataset) -> None:
        self.config, self.mesh, self.seed = config, sharding.make_mesh(), np.uint32(config.seed)
        self.split = dataset.splits["train"]
        self.training = build(config, dataset, self.mesh)
        self.step = update.make_step(self.training, two_views(self.training))
        plain = config.copy_and_resolve_references()
        plain.augment.update(_OFF)
        self.plain = build(plain, dataset, self.mesh)
        self.plain_step = update.make_step(self.plain, two_views(self.plain))
        self.state, self.plain_state = self.training.state, self.plain.state
        self.params = jax.tree.map(np.asarray, self.training.state.params)
        self.stored = next(self._stream(1))
        self.batch = self._send(self.stored)
        self.last = 0

    def _stream(self, steps: int, first: int = 0) -> Iterator[Any]:
        return batches.train_batches(
            self.split,
            seed=self.config.seed,
            batch_size=self.config.train.batch_size,
            first_step=first,
            last_step=first + steps,
            read_threads=self.config.data.read_threads,
        )

    def _send(self, batch: Any) -> Any:
        return sharding.shard(self.mesh, {name: batch[name] for name in INPUTS})

    def check(self) -> dict[str, float]:
        """Returns loss and gradient norm of the batch without augmentation; updates plain_state."""
        self.plain_state, metrics = self.plain_step(self.plain_state, self.batch, self.seed)
        return {name: float(metrics[name]) for name in ("loss", "gradient_norm")}

    def turn(self, steps: int) -> dict[str, Sequence[float]]:
        """Returns seconds and processor time of a step with and without input, and of its parts."""
        first, self.last = self.last, self.last + steps
        on_devices = loop.on_devices(self.config.train.resident, self.split)
        window = self._window(steps) if on_devices else None

        def whole() -> Any:
            if window:
                self.state, metrics = window(self.state, first, first + steps)
                return metrics
            for batch in self._stream(steps, first):
                self.state, metrics = self.step(self.state, self._send(batch), self.seed)
            return metrics

        def alone() -> Any:
            self.plain_state, metrics = self.plain_step(self.plain_state, self.batch, self.seed)
            return metrics["loss"]

        if not hasattr(self, "_parts"):
            self._parts = dict(_parts(self.training, self.batch, self.params))
        stream = self._stream(steps + 3, self.last)
        found: dict[str, Sequence[float]] = {
            "whole": _both(whole, 1, steps),
            "step": _both(alone, steps),
        }
        found["input"] = _both(lambda: self._send(next(stream)), steps)
        return found | {name: _both(call, steps) for name, call in self._parts.items()}

    def _window(self, steps: int) -> resident.Window:
        if not hasattr(self, "_made"):
            assert isinstance(self.split, ArraySplit)  # as any split that fits on the devices
            self._made = resident.make_window(
                self.step,
                self.split,
                self.mesh,
                seed=self.config.seed,
                batch_size=self.config.train.batch_size,
                longest=steps,
                inputs=INPUTS,
            )
        return self._made


def _both(call: Callable[[], Any], calls: int, steps: int = 1) -> tuple[float, float]:
    """Returns the median seconds and the mean processor time of a step, with `steps` in a call."""
    used = time.process_time()
    seconds = timed(call, calls)
    # `timed` makes three more calls to warm up, which take as much processor time.
    used = time.process_time() - used
    return float(np.median(seconds)) / steps, used / (calls + 3) / steps


def _parts(training: Training, batch: Any, params: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields (name, call) of each part of a step except its input."""
    config, key = training.config, jax.random.key(0)
    rows = config.train.batch_size * NUM_VIEWS

    def views(key: Any, images: Any) -> Any:
        drawn = augment.views(key, images, NUM_VIEWS, **config.augment.to_dict())
        return training.inputs(drawn, images)

    drawing = jax.jit(views)
    yield "augmentation", lambda: drawing(key, batch["image"])
    seen = drawing(key, batch["image"]).reshape(rows, *training.input_shape)

    def apply(params: Any, images: Any) -> Any:
        outputs: Any = training.model.apply({"params": params}, images, train=True)
        return outputs["contrastive"], outputs["logits"]

    weights = jax.tree.map(
        lambda x: jax.random.normal(key, x.shape), jax.eval_shape(apply, params, seen)
    )

    def weighted(params: Any, images: Any) -> jax.Array:
        # Weights differ by row: with equal gradients of all rows, a product could be saved.
        products = jax.tree.map(lambda x, y: (x * y).sum(), apply(params, images), weights)
        return sum(jax.tree.leaves(products), jnp.zeros(()))

    placed = sharding.replicate(training.mesh, params)
    encoder = jax.jit(jax.value_and_grad(weighted))
    yield "encoder", lambda: encoder(placed, seen)
    contrastive = contrastive_loss(config.method, config.loss, training.mesh)
    assert contrastive is not None
    embeddings = jax.jit(apply)(placed, seen)[0].reshape(config.train.batch_size, NUM_VIEWS, -1)
    gradient = jax.jit(jax.value_and_grad(contrastive))
    yield "contrastive", lambda: gradient(embeddings, batch["coarse"])
    moved = build(config, training.dataset, training.mesh).state
    good = jnp.asarray(True)
    optimize = jax.jit(
        lambda state, gradient, good: update.apply(state, gradient, training.optimizer, good, {})
    )
    gradients = jax.tree.map(jnp.ones_like, placed)
    yield "optimizer", lambda: optimize(moved, gradients, good)


@contextlib.contextmanager
def peer(ours: Ours) -> Iterator[Ask]:
    """Starts the same training in PyTorch; yields a function (name, steps) -> its measurement."""
    config, dataset = ours.config, ours.training.dataset
    params = ours.params["encoders_0"]
    layers = len(config.model.mlp.widths)
    arrays = {
        "images": ours.split.read(np.arange(len(ours.split)))["image"],
        "labels": ours.split.read(np.arange(len(ours.split)))["coarse"],
        "batch": np.asarray(augment.normalize(ours.stored["image"], dataset.mean, dataset.std)),
        "batch_labels": ours.stored["coarse"],
        "kernel_classifier": ours.params["classifier_0"]["kernel"],
        "bias_classifier": ours.params["classifier_0"]["bias"],
        **{f"kernel_{n}": params[f"layer_{n}"]["kernel"] for n in range(layers)},
        **{f"bias_{n}": params[f"layer_{n}"]["bias"] for n in range(layers)},
    }
    described = {
        "layers": layers,
        "augment": config.augment.to_dict(),
        "mean": dataset.mean,
        "std": dataset.std,
        "temperature": config.loss.temperature,
        "weights": [config.loss.contrastive_weight, config.loss.cross_entropy_weight],
        "learning_rate": config.train.learning_rate,
        "weight_decay": config.train.weight_decay,
        "workers": FLAGS.workers,
    }
    script = pathlib.Path(__file__).with_name("training_torch.py")
    with tempfile.TemporaryDirectory() as folder:
        described["arrays"] = os.path.join(folder, "arrays.npz")
        np.savez(described["arrays"], **arrays)
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        stdin.write(json.dumps(described) + "\n")

        def ask(name: str, steps: int) -> Any:
            stdin.write(json.dumps([name, steps]) + "\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer:
                raise RuntimeError(f"{script} ended while it was to time {name!r}")
            return json.loads(answer)

        try:
            yield ask
        finally:
            stdin.close()
            process.wait()


def require_same(here: dict[str, float], there: dict[str, float]) -> None:
    """Raises RuntimeError unless both have the same loss and gradient."""
    for name, value in here.items():
        if abs(value - there[name]) > _TOLERANCE * abs(value):
            raise RuntimeError(f"{name}: {value} here, {there[name]} in PyTorch")


def measure(
    ours: Ours, peers: Sequence[str]
) -> tuple[dict[str, dict[str, Sequence[float]]], float]:
    """Returns {library: {part: (seconds, processor time) of a step}}, and FLOP/s of products.

    All are medians over the turns.
    """
    rates = []
    turns: list[dict[tuple[str, str], Sequence[float]]] = []
    steps, few = FLAGS.steps, FLAGS.peer_steps
    with peer(ours) if peers else contextlib.nullcontext() as ask:
        if ask:
            require_same(ours.check(), ask("check", 1))
            ask("step", 5)
        for _ in range(FLAGS.turns):
            found = {("thanos_jax", name): pair for name, pair in ours.turn(steps).items()}
            if ask:
                found["PyTorch", "whole"] = ask("loader and step", few)
                for name in ("step", "encoder", "contrastive", "optimizer"):
                    found["PyTorch", name] = ask(name, steps)
                found["PyTorch", "input and augmentation"] = ask("loader", few)
                if "lightly" in peers:
                    found["lightly", "whole"] = ask("lightly", few)
            turns.append(found)
            rates.append(matmul_rate(DTYPES[ours.config.model.dtype]))
    result: dict[str, dict[str, Sequence[float]]] = {}
    for who, what in turns[0]:
        medians = np.median([turn[who, what] for turn in turns], axis=0)
        result.setdefault(who, {})[what] = medians.tolist()
    return result, float(np.median(rates))


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    config = FLAGS.config
    schema.check(config)
    require(config)
    if FLAGS.synthetic:
        dataset = random_dataset(config, size=FLAGS.synthetic, side=FLAGS.side)
    else:
        dataset = sources.load(config.data)
    absent = {
        who: [name for name in names if importlib.util.find_spec(name) is None]
        for who, names in _PACKAGES.items()
    }
    peers = [who for who, names in absent.items() if not names]
    ours, batch = Ours(config, dataset), config.train.batch_size
    load = os.getloadavg()[0]
    found, rate = measure(ours, peers)
    flops = model_flops(ours.training)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{config.data.name}:{config.method}, batch {batch}, {device}, load {load:.1f} before")
    for who, parts in found.items():
        print(f"{who:26s}      ms   processor ms")
        for what, (seconds, used) in parts.items():
            words = ""
            if what in ("whole", "step"):
                words = f"{batch / seconds:10,.0f} images/s, model FLOP utilization "
                words += f"{flops / seconds / rate:.1%}"
            print(f"  {what:24s}{seconds * 1e3:10.3f}{used * 1e3:10.3f}{words}")
    for who, names in absent.items():
        if names:
            print(f"{who}: not run: {', '.join(names)} not installed")
    print(f"model: {flops / 1e9:.3g} GFLOP a step; matrix products: {rate / 1e9:.4g} GFLOP/s")
    if FLAGS.json:
        numbers = {"found": found, "model_flops": flops, "matmul_flops_per_second": rate}
        numbers |= {"batch_size": batch, "load": load, "not_run": absent}
        pathlib.Path(FLAGS.json).write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.start(main)
