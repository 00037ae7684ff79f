"""Digits and MNIST in all their forms: images, labels, names and moments, by their hash.

Numbers of different versions can be compared only as long as these stay.
"""

import functools
import hashlib
import pathlib

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import backgrounds, sources, tfds_sets

STORED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"


def digest(dataset):
    found = hashlib.sha256()
    for split in dataset.splits.values():
        for start in range(0, len(split), 5000):
            batch = split.read(np.arange(start, min(start + 5000, len(split))))
            for key in ("image", "fine", "coarse"):
                found.update(str((batch[key].dtype, batch[key].shape)).encode())
                found.update(np.ascontiguousarray(batch[key]).tobytes())
    facts = (dataset.coarse_names, dataset.fine_names, dataset.image_shape)
    found.update(repr((*facts, dataset.mean, dataset.std, dataset.skipped)).encode())
    return found.hexdigest()[:16]


@pytest.fixture
def photographs(monkeypatch):
    """Pixels that say where they lie: decoders of JPEG may differ by a level."""
    pixels = np.zeros((2, 250, 400, 3), np.uint8)
    pixels[..., 0] = np.arange(2)[:, None, None]
    pixels[..., 1] = np.arange(250)[:, None]
    pixels[..., 2] = np.arange(400) % 200
    monkeypatch.setattr(backgrounds, "_photographs", lambda: pixels)


EXPECTED = {
    "digits": [
        ({}, "5ed909aafdcd8674"),
        ({"background": "photographs"}, "245b78fd0a97de69"),
        ({"background": "colour"}, "b4d4a8e27e82e1ea"),
        ({"background": "texture"}, "ac879cd6f45da5e6"),
        ({"background": "colour", "correlation": 0.8, "split_seed": 7}, "1c255b9c39833c4f"),
        ({"rare_fraction": 0.1}, "8dec9cb46e5d5f21"),
        ({"rare_fraction": 0.3, "split_seed": 1}, "13d587aaebd1bc7a"),
        ({"classes": "fine"}, "518436bb37ac782e"),
    ],
    "mnist": [
        ({}, "b56f4daaef75485b"),
        ({"background": "photographs"}, "e2aecae68be697fb"),
        ({"background": "colour"}, "962af8d99e5410de"),
        ({"background": "texture"}, "22762f8947a03794"),
        ({"rare_fraction": 0.1}, "242d8a6f42a1bef7"),
    ],
}


@functools.cache
def stored_mnist():
    if not (STORED / "mnist").exists():
        pytest.skip("no MNIST beside the checkout (../shared/data/tfds)")
    config = schema.default()
    config.data.update(name="mnist", data_dir=str(STORED))
    return tfds_sets.load(config.data)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        pytest.param(name, *row, marks=[pytest.mark.slow] if name == "mnist" else [])
        for name, rows in EXPECTED.items()
        for row in rows
    ],
)
def test_nothing_has_moved(name, changes, expected, photographs, monkeypatch):
    monkeypatch.setitem(sources._LOADERS, "mnist", lambda config_data: stored_mnist())
    config = schema.default()
    config.data.update({"name": name, **changes})
    schema.check(config)
    assert digest(sources.load(config.data)) == expected
