"""What the Python blocks of a page take for given: the reader's own arrays, models and files."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

RNG = np.random.default_rng(0)


def readme(folder: pathlib.Path) -> dict[str, Any]:
    """Embeddings of a batch, and an encoder."""
    import jax.numpy as jnp

    return {
        "embeddings": jnp.asarray(RNG.normal(size=(8, 2, 128)), "float32"),
        "labels": jnp.arange(8) % 3,
        "encode": lambda params, images: images @ params,
        "jax": jax,
    }


def after_training(folder: pathlib.Path) -> dict[str, Any]:
    """A finished run in runs/own, and two pictures."""
    from PIL import Image

    from thanos_jax import run
    from thanos_jax.config import default

    config = default()
    config.method, config.model.arrangement, config.model.encoder = "spread", "shared", "mlp"
    config.model.mlp.widths, config.train.batch_size, config.train.max_steps = (8, 4), 64, 1
    config.augment.update(flip=0.0, jitter_probability=0.0)
    config.report.map_points, config.transfer.iterations = 20, 2
    run.run(config, folder / "runs" / "own")
    for name in ("a.jpg", "b.png"):
        Image.fromarray(RNG.integers(0, 255, (8, 8), np.uint8)).save(folder / name)
    return {}


def coresets(folder: pathlib.Path) -> dict[str, Any]:
    """Labels, and what four runs say of them."""
    labels = np.arange(60) % 3
    return {"labels": labels, "confidences": RNG.uniform(size=(4, 60))}


def embedded(folder: pathlib.Path) -> dict[str, Any]:
    """Embeddings with coarse and fine labels, a classifier, and an autoencoder."""
    from thanos_jax.models import MLP, Thanos
    from thanos_jax.models.decoder import MLPDecoder

    fine = np.arange(60) % 4
    embeddings = (RNG.normal(size=(60, 8)) + 3 * np.eye(8)[fine]).astype(np.float32)
    images = RNG.normal(size=(60, 4, 4, 1)).astype(np.float32)
    decoder = MLPDecoder(image_shape=(4, 4, 1), widths=(8,))
    model = Thanos(encoders=[MLP((8,))], decoder=decoder, num_classes=2, arrangement="shared")
    return {
        "embeddings": embeddings, "fine": fine, "coarse": fine // 2, "a": 0, "b": 1,
        "kernel": RNG.normal(size=(8, 2)), "predictions": fine // 2,
        "tenth": embeddings, "half": embeddings, "whole": embeddings, "images": images,
        "model": model, "variables": model.init(jax.random.key(0), images, train=False),
    }  # fmt: skip


def groups(folder: pathlib.Path) -> dict[str, Any]:
    """Embeddings of two classes, each of two groups, and predictions."""
    group = np.arange(400) % 4
    points = 5 * np.eye(4)[group] + RNG.normal(0, 0.3, size=(400, 4))
    rows = {name: points[start:stop] for name, start, stop in (
        ("train", 0, 200), ("validation", 200, 300), ("test", 300, 400))}  # fmt: skip
    return {
        **rows, "classes": group[:200] // 2, "validation_classes": group[200:300] // 2,
        "test_classes": group[300:] // 2, "true_groups": group[:200], "group": 0, "label": 0,
        "predictions": group // 2, "labels": group // 2, "groups": group, "num_groups": 4,
        "train_groups": group, "scores": RNG.uniform(size=400), "np": np,
    }  # fmt: skip


def noisy_labels(folder: pathlib.Path) -> dict[str, Any]:
    """Embeddings of ten classes, and a classifier's probabilities."""
    labels = np.arange(400) % 10
    return {
        "labels": labels, "np": np, "probabilities": 0.7 * np.eye(10)[labels] + 0.03,
        "embeddings": 4 * np.eye(12)[labels] + RNG.normal(0, 0.3, size=(400, 12)),
    }  # fmt: skip


# Page -> what it takes for given; a page that is not here stands by itself.
GIVENS: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
    "README.md": readme,
    "docs/after_training.md": after_training,
    "docs/coresets.md": coresets,
    "docs/geometry.md": embedded,
    "docs/groups.md": groups,
    "docs/noisy_labels.md": noisy_labels,
}
