"""The map of embeddings: clusters stay apart, and few or collapsed rows are no error."""

import numpy as np
import pytest

from thanos_jax.downstream.projection import project


def test_keeps_clusters_apart_and_repeats_itself():
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    rows = 5 * np.eye(8)[labels] + rng.normal(size=(150, 8)) * 0.3
    points, chosen = project(rows, limit=90, seed=3)
    assert points.shape == (90, 2)
    assert points.dtype == np.float32
    assert np.all(np.diff(chosen) > 0)
    assert chosen[-1] < 150
    kept = labels[chosen]
    centres = np.stack([points[kept == k].mean(0) for k in range(3)])
    nearest = np.argmin(((points[:, None] - centres) ** 2).sum(-1), axis=1)
    assert np.mean(nearest == kept) == 1
    # Lengths do not matter, only directions.
    again, same = project(rows * 2.0 ** (labels[:, None] - 1), limit=90, seed=3)
    np.testing.assert_array_equal(same, chosen)
    np.testing.assert_array_equal(again, points)
    assert not np.array_equal(project(rows, limit=90, seed=4)[1], chosen)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 20])
def test_few_rows_or_one_column(n):
    for rows in (np.random.default_rng(0).normal(size=(n, 4)), np.arange(n)[:, None] - 0.5):
        points, chosen = project(rows)
        np.testing.assert_array_equal(chosen, np.arange(n))
        assert np.isfinite(points).all()


def test_a_collapsed_embedding_is_one_point():
    rows = np.full((50, 6), 0.3) * np.random.default_rng(0).uniform(1, 2, size=(50, 1))
    points, _ = project(rows)
    np.testing.assert_array_equal(points, 0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        project(np.eye(3), limit=0)
    with pytest.raises(ValueError, match=r"embeddings: .*inf in row 1"):
        project(np.array([[0.0], [np.inf]]))
