"""The map of embeddings: clusters stay apart, and few or collapsed rows are no error."""

import sys
import types

import numpy as np
import pytest

from thanos_jax.downstream import projection
from thanos_jax.downstream.projection import lay_out, plane, project
from thanos_jax.errors import MissingDependencyError


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


def test_principal_components_keep_what_a_plane_can():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 5)) * [3, 2, 0.2, 0.1, 0.1]
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    points = plane(unit).astype(np.float64)
    centred = unit - unit.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centred.T @ centred)
    np.testing.assert_allclose(np.sum(points**2, axis=0), values[::-1][:2], rtol=1e-5)
    assert abs(points[:, 0] @ points[:, 1]) < 1e-4
    np.testing.assert_array_equal(plane(np.ones((4, 3), np.float32)), 0)
    one = plane(np.array([[1.0], [-1.0], [1.0]], np.float32))
    assert one[0, 0] == one[2, 0] != one[1, 0]
    np.testing.assert_array_equal(one[:, 1], 0)


def test_a_layout_has_the_nearest_images_of_those_that_are_mapped():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 4)).astype(np.float32)
    layout = lay_out(rows, limit=30, seed=3)
    points, mapped = project(rows, limit=30, seed=3)
    np.testing.assert_array_equal(layout.points, points)
    np.testing.assert_array_equal(layout.mapped, mapped)
    unit = rows[mapped].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(layout.neighbours, np.argsort(-cosines, axis=1)[:, :8])
    np.testing.assert_allclose(layout.plane, plane(unit.astype(np.float32)), atol=1e-5)
    for count in (1, 2, 5):
        few = lay_out(rows[:count])
        assert few.neighbours.shape == (count, min(8, count - 1))
        assert few.plane.shape == (count, 2)


def test_many_rows_are_mapped_without_t_sne(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    monkeypatch.setattr(projection, "TSNE_LIMIT", 11)
    monkeypatch.setattr(projection, "TSNE", None)
    layout = lay_out(rows)
    np.testing.assert_array_equal(layout.points, layout.plane)
    assert np.ptp(layout.plane) > 0.5


def test_open_tsne_is_asked_for_by_name(monkeypatch):
    """A module in its place takes what it is given; with openTSNE itself: the test below."""
    seen = {}

    class TSNE:
        def __init__(self, **settings):
            seen.update(settings)

        def fit(self, unit):
            seen["unit"] = unit
            return unit[:, :2]

    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    monkeypatch.setitem(sys.modules, "openTSNE", types.SimpleNamespace(TSNE=TSNE))
    points, mapped = project(rows, seed=3, projection="opentsne")
    np.testing.assert_array_equal(points, seen.pop("unit")[:, :2])
    assert seen == {"perplexity": 13.0, "initialization": "pca", "random_state": 3, "n_jobs": 1}
    assert len(mapped) == 40
    with pytest.raises(ValueError, match=r"projection: expected one of .*'opentsne'.*got 'umap'"):
        project(rows, projection="umap")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    expected = r"^config\.report\.projection: 'opentsne' needs openTSNE: .*'\.\[opentsne\]'"
    for act in (projection.require, lambda name: lay_out(rows, projection=name)):
        with pytest.raises(MissingDependencyError, match=expected):
            act("opentsne")
    projection.require("tsne")


def test_open_tsne_keeps_neighbourhoods_and_repeats_itself():
    pytest.importorskip("openTSNE")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    rows = (np.eye(3)[labels] + 0.05 * rng.normal(size=(120, 3))).astype(np.float32)
    points, _ = project(rows, projection="opentsne")
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.95
    np.testing.assert_array_equal(points, project(rows, projection="opentsne")[0])
