"""Pictures for the live log of a run: augmented views of images, and its embedding."""

from __future__ import annotations

import io
from typing import Any

import jax
import numpy as np
from PIL import Image

from thanos_jax.data import augment
from thanos_jax.downstream.projection import Sample
from thanos_jax.live import pictures
from thanos_jax.live.contract import Points
from thanos_jax.report.image_map import Column, ImageMap
from thanos_jax.report.sprite import Sprite
from thanos_jax.train.loop import Stage
from thanos_jax.train.two_views import NUM_VIEWS

_IMAGES = 8


def views(stage: Stage) -> dict[str, np.ndarray]:
    """Returns a picture of training images, above two augmented views of each.

    Runs on one device of this process. The views differ from the views of any step, because random
    numbers depend on the place in a batch.
    """
    config = stage.training.config
    images = stage.split.read(np.arange(min(_IMAGES, len(stage.split))))["image"]

    def draw(key: jax.Array, images: jax.Array) -> jax.Array:
        return augment.views(key, images, NUM_VIEWS, **config.augment.to_dict())

    # It runs once: optimizing it for speed would cost more than it saves.
    compiled = jax.jit(draw).lower(jax.random.key(config.seed, impl="rbg"), images)
    options: Any = {"xla_backend_optimization_level": 0}
    drawn = compiled.compile(options)(jax.random.key(config.seed, impl="rbg"), images)
    first, second = np.asarray(drawn).swapaxes(0, 1)
    return {"views": pictures.rows([images / np.float32(255), first, second])}


def points(shown: ImageMap, embedding: Sample) -> Points:
    """Returns the images of a map with their embeddings, as many as a sprite can hold.

    Args:
      shown: the map.
      embedding: embeddings of the map's images.

    Raises:
      ValueError: the embeddings belong to other images.
    """
    if not np.array_equal(embedding.mapped, shown.layout.mapped):
        raise ValueError(
            f"embedding: expected rows for the map's {len(shown.layout.mapped)} images, got "
            f"{len(embedding.mapped)} of other images"
        )
    thumbnails = _thumbnails(shown.sprite, len(shown.files))
    most = min(len(thumbnails), pictures.most_thumbnails(thumbnails.shape[1]))
    chosen = np.linspace(0, len(thumbnails) - 1, most).round().astype(int)
    return Points(
        embedding.embeddings[chosen],
        {
            **{column.name: _texts(column)[chosen] for column in shown.columns},
            "file" if shown.named else "image": shown.files[chosen],
        },
        thumbnails[chosen],
    )


def _texts(column: Column) -> np.ndarray:
    """Returns the values of a column as text, str [m]."""
    if column.names:
        return np.array(column.names)[column.values]
    return np.array([f"{value:.4g}" for value in column.values])


def _thumbnails(sprite: Sprite, count: int) -> np.ndarray:
    """Returns thumbnails of a sprite, uint8 [count, s, s, 3]; black margins make them square."""
    (across, down), side = sprite.cell, max(sprite.width, sprite.height)
    sheet = np.asarray(Image.open(io.BytesIO(sprite.data)).convert("RGB"))
    lines = sheet.shape[0] // down
    cells = sheet.reshape(lines, down, sprite.columns, across, 3).swapaxes(1, 2)
    square = np.zeros((count, side, side, 3), np.uint8)
    square[:, : sprite.height, : sprite.width] = cells.reshape(-1, down, across, 3)[
        :count, : sprite.height, : sprite.width
    ]
    return square
