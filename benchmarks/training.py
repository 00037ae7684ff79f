"""A training step with its input, beside the same model and losses in PyTorch.

python benchmarks/training.py --config=configs/mnist.py:supcon --config.data.data_dir=DATA \
    [--turns=3] [--peer_steps=10] [--workers=2] [--json=FILE]

Here: the loop of `thanos_jax.main`, with its input and its augmentation on the device. There: the
same MLP, SupConLoss of pytorch-metric-learning, AdamW, and the same augmentation by torchvision,
image by image in worker processes of a DataLoader, as in SupContrast's code; and lightly's data set
and transforms under pytorch_lightning's Trainer (lightly has no SupConLoss: it is the same one).
What is not installed is said and left out. PyTorch runs in a process of its own, which waits while
this one computes, and they take turns. Before, both must give the same loss and gradient norm of
one batch and the same weights.

"step" has no input and no augmentation: its batch, normalized there and uint8 here, is at hand. The
parts of a step are timed alone. Times are medians over the turns. Model FLOPs are 3 x 2 x rows x
weights of the linear layers, with two rows an image; utilization is their share of what square
matrix products reach here in the same run.
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
from thanos_jax.errors import ConfigError
from thanos_jax.models.thanos import DTYPES
from thanos_jax.train import loop, resident, update
from thanos_jax.train.build import Training, build
from thanos_jax.train.objective import contrastive_loss
from thanos_jax.train.two_views import INPUTS, NUM_VIEWS, two_views

FLAGS = flags.FLAGS
flags.DEFINE_integer("turns", 3, "How often each is timed.", lower_bound=1)
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
    """Raises ConfigError for a training that the peers have not."""
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
    """The training as `thanos_jax.main` runs it, and its parts."""

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
        """Returns loss and gradient norm of the batch, not augmented; moves the plain state."""
        self.plain_state, metrics = self.plain_step(self.plain_state, self.batch, self.seed)
        return {name: float(metrics[name]) for name in ("loss", "gradient_norm")}

    def whole(self, steps: int) -> float:
        """Returns the seconds of a step with its input and augmentation, as the loop has them."""
        first, self.last = self.last, self.last + steps
        if loop.on_devices(self.config.train.resident, self.split):
            window = self._window(steps)

            def run() -> Any:
                self.state, metrics = window(self.state, first, first + steps)
                return metrics
        else:

            def run() -> Any:
                for batch in self._stream(steps, first):
                    self.state, metrics = self.step(self.state, self._send(batch), self.seed)
                return metrics

        return float(timed(run, 1)[0]) / steps

    def _window(self, steps: int) -> resident.Window:
        if not hasattr(self, "_made"):
            self._made = resident.make_window(
                self.step,
                self.split,  # type: ignore[arg-type]
                self.mesh,
                seed=self.config.seed,
                batch_size=self.config.train.batch_size,
                longest=steps,
                inputs=INPUTS,
            )
        return self._made

    def alone(self, steps: int) -> float:
        """Returns the seconds of a step alone."""

        def run() -> Any:
            self.plain_state, metrics = self.plain_step(self.plain_state, self.batch, self.seed)
            return metrics["loss"]

        return float(np.median(timed(run, steps)))

    def parts(self, steps: int) -> dict[str, float]:
        """Returns the seconds of each part of a step, timed alone."""
        if not hasattr(self, "_parts"):
            self._parts = dict(_parts(self.training, self.batch, self.params))
        stream = self._stream(steps + 3, self.last)
        found = {"input": float(np.median(timed(lambda: self._send(next(stream)), steps)))}
        for name, call in self._parts.items():
            found[name] = float(np.median(timed(call, steps)))
        return found


def _parts(training: Training, batch: Any, params: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields the name and the call of each part of a step but its input."""
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
        # A gradient that is not the same for all rows: it would be a product less.
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
    """Starts the same training in PyTorch; yields what asks it to time something."""
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
            found = json.loads(answer)
            return float(np.median(found)) if isinstance(found, list) else found

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


def measure(ours: Ours, peers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns who -> what -> seconds of a step, medians over the turns."""
    turns: list[dict[tuple[str, str], float]] = []
    steps, few = FLAGS.steps, FLAGS.peer_steps
    with peer(ours) if peers else contextlib.nullcontext() as ask:
        if ask:
            require_same(ours.check(), ask("check", 1))
            ask("step", 5)
        for _ in range(FLAGS.turns):
            found: dict[tuple[str, str], float] = {
                ("thanos_jax", "whole"): ours.whole(steps),
                ("thanos_jax", "step"): ours.alone(steps),
                **{("thanos_jax", name): s for name, s in ours.parts(steps).items()},
            }
            if ask:
                found["PyTorch", "whole"] = ask("loader and step", few)
                for name in ("step", "encoder", "contrastive", "optimizer"):
                    found["PyTorch", name] = ask(name, steps)
                found["PyTorch", "input and augmentation"] = ask("loader", few)
            if "lightly" in peers:
                found["lightly", "whole"] = ask("lightly", few)  # type: ignore[misc]
            turns.append(found)
    result: dict[str, dict[str, float]] = {}
    for who, what in turns[0]:
        median = float(np.median([turn[who, what] for turn in turns]))
        result.setdefault(who, {})[what] = median
    return result


def layer_flops(params: Any, rows: int) -> float:
    """Returns the FLOPs of linear layers, forwards and backwards."""
    kernels = [x for x in jax.tree.leaves(params) if np.ndim(x) == 2]
    return 3.0 * 2 * rows * sum(np.size(kernel) for kernel in kernels)


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
    found = measure(ours, peers)
    rate = matmul_rate(DTYPES[config.model.dtype])
    flops = layer_flops(ours.params, batch * NUM_VIEWS)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{config.data.name}:{config.method}, batch {batch}, {device}, load {load:.1f} before")
    for who, seconds in found.items():
        print(who)
        for what, one in seconds.items():
            speed = f"{batch / one:12,.0f} images/s" if what in ("whole", "step") else ""
            print(f"  {what:24s}{one * 1e3:10.3f} ms{speed}")
        for what in seconds.keys() & {"whole", "step"}:
            share = flops / seconds[what] / rate
            print(f"  model FLOP utilization, {what}: {share:.1%}")
    for who, names in absent.items():
        if names:
            print(f"{who}: not run: {', '.join(names)} not installed")
    print(f"model: {flops / 1e9:.3g} GFLOP a step; matrix products: {rate / 1e9:.4g} GFLOP/s")
    if FLAGS.json:
        numbers = {"seconds": found, "model_flops": flops, "matmul_flops_per_second": rate}
        numbers |= {"batch_size": batch, "load": load, "not_run": absent}
        pathlib.Path(FLAGS.json).write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.start(main)
