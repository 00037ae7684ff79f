"""Splits whose classes are other labels: fine ones, or any; the images stay as they are."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import sources
from thanos_jax.data.relabelled import relabel
from thanos_jax.data.splits import ArraySplit
from thanos_jax.errors import ConfigError

IMAGES = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
FINE, COARSE, OTHER = np.arange(5), np.arange(5) % 2, np.array([4, 4, 3, 3, 0])


class OnDisk:
    """Hides that a split is in memory."""

    in_memory = False

    def __init__(self, split):
        self.stored, self.fine = split, None

    def __len__(self):
        return len(self.stored)

    def read(self, indices):
        return self.stored.read(indices)

    def subset(self, indices):
        return OnDisk(self.stored.subset(indices))


@pytest.mark.parametrize("wrap", [lambda split: split, OnDisk])
@pytest.mark.parametrize(("labels", "expected"), [(None, FINE), (OTHER, OTHER)])
def test_only_coarse_labels_are_others(wrap, labels, expected):
    split = wrap(ArraySplit(IMAGES, FINE, COARSE))
    found = relabel(split, labels)
    assert (len(found), found.in_memory) == (5, split.in_memory)
    batch = found.read(np.array([3, 0]))
    assert batch["coarse"].tolist() == [expected[3], expected[0]]
    assert batch["coarse"].dtype == np.int32
    assert batch["image"].ravel().tolist() == batch["fine"].tolist() == [3, 0]
    part = found.subset(np.array([4, 2]))
    assert part.read(np.arange(2))["coarse"].tolist() == [expected[4], expected[2]]
    assert split.read(np.arange(5))["coarse"].tolist() == COARSE.tolist()


def test_images_are_not_copied():
    split = ArraySplit(IMAGES, FINE, COARSE)
    assert relabel(split, OTHER).images is split.images


@pytest.mark.parametrize("wrap", [lambda split: split, OnDisk])
def test_labels_that_do_not_fit_are_refused(wrap):
    split = wrap(ArraySplit(IMAGES, FINE, COARSE))
    with pytest.raises(ValueError, match=r"coarse labels: expected shape \(5,\), got \(4,\)"):
        relabel(split, OTHER[:4])
    with pytest.raises(ValueError, match="coarse labels"):
        relabel(split, -OTHER)
    with pytest.raises(TypeError, match="coarse labels"):
        relabel(split, OTHER / 2)


def test_every_data_set_can_have_its_fine_labels_as_classes():
    config = schema.default()
    config.data.classes = "fine"
    schema.check(config)
    dataset = sources.load(config.data)
    assert dataset.coarse_names == dataset.fine_names
    for split in dataset.splits.values():
        np.testing.assert_array_equal(split.coarse, split.fine)
    config.data.classes = "fein"
    with pytest.raises(ConfigError, match=r"data\.classes"):
        schema.check(config)
