"""Maps of made images for the tests of reports: the colour of an image tells its number."""

import io
import json
import re

import numpy as np
from PIL import Image

from thanos_jax.downstream.projection import Layout, plane
from thanos_jax.report import image_map

NASTY = "</script><script>alert(1)</script>\"'&\u202e\u200fabc"


def pictures(rows, side=8):
    """uint8 [b, side, side, 3]; the first two channels are the number."""
    rows = np.asarray(rows)
    images = np.zeros((len(rows), side, side, 3), np.uint8)
    images[..., 0], images[..., 1] = (rows % 250)[:, None, None], (rows // 250)[:, None, None]
    return images


def layout(count, *, spread=1.0, seed=0):
    """Three clusters on the sphere; neighbours are the next eight images."""
    rng = np.random.default_rng(seed)
    centres = np.eye(3)[np.arange(count) % 3]
    rows = centres + 0.2 * spread * rng.normal(size=(count, 3))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    points = (10 * rows[:, :2] + rng.normal(size=(count, 2))).astype(np.float32)
    neighbours = (np.arange(count)[:, None] + np.arange(1, 9)) % count
    return Layout(points, np.arange(count), plane(unit), neighbours.astype(np.int32))


def a_map(count=60, *, spread=1.0, names=("cat", "dog", "dogfish"), files=True, side=8):
    """A map of `count` images, whose files are image_0000.png and so on."""
    labels = np.arange(count) % 3
    columns = [
        image_map.classes("fine label", labels, names, "How to read it."),
        image_map.classes("predicted label", np.roll(labels, count // 2 + 1), names),
        image_map.right_or_wrong(np.roll(labels, count // 2 + 1), labels),
        image_map.score("suspicion", np.where(labels == 0, np.nan, np.linspace(0, 1, count))),
    ]
    stored = np.array([f"image_{i:05}.png" for i in range(count)]) if files is True else files
    return image_map.of_images(
        "test",
        layout(count, spread=spread),
        columns,
        lambda rows: pictures(rows, side),
        names=stored,
    )


def cells(one):
    """uint8 [cells, height, width, 3], the thumbnails of a sprite."""
    sheet = np.asarray(Image.open(io.BytesIO(one.data)).convert("RGB"))
    across, down = one.cell
    lines = sheet.shape[0] // down
    grid = sheet.reshape(lines, down, one.columns, across, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, down, across, 3)[:, : one.height, : one.width]


def data_of(page):
    return json.loads(re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL)[1])
