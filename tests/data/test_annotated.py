"""Splits with further columns, whose examples may be repeated."""

import numpy as np
import pytest

from thanos_jax.data.annotated import annotate
from thanos_jax.data.splits import ArraySplit

IMAGES = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
SPLIT = ArraySplit(IMAGES, np.arange(5), np.arange(5) % 2)


def test_columns_and_repetitions_go_with_their_examples():
    found = annotate(SPLIT, {"weight": np.arange(5) / 2}, np.array([4, 1, 1]))
    assert len(found) == 3
    assert found.in_memory
    assert found.fine.tolist() == [4, 1, 1]
    batch = found.read(np.array([2, 0]))
    assert batch.keys() == {"image", "fine", "coarse", "weight"}
    assert batch["image"].ravel().tolist() == batch["fine"].tolist() == [1, 4]
    assert batch["weight"].tolist() == [0.5, 2.0]
    assert found.subset(np.array([0])).read(np.array([0]))["weight"].tolist() == [2.0]
    whole = annotate(SPLIT, {})
    assert whole.read(np.arange(5))["coarse"].tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ({"weight": np.ones(4)}, None, "columns: expected arrays of length 5 .*'weight' of len"),
        ({"fine": np.ones(5)}, None, "columns: .*other than image, fine and coarse, got 'fine'"),
        ({}, np.array([0, 5]), "rows: expected numbers from 0 to 4, got 0 to 5"),
        ({}, np.array([-1]), "rows: expected numbers from 0 to 4, got -1 to -1"),
    ],
)
def test_what_does_not_fit_is_refused(columns, rows, words):
    with pytest.raises(ValueError, match=words):
        annotate(SPLIT, columns, rows)
