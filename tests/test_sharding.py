"""The order of devices in the mesh, and the rows of a batch that each process reads."""

import types

import jax
import numpy as np
import pytest

from thanos_jax import sharding
from thanos_jax.data.batches import evaluation_batches, sample_indices, train_batches
from thanos_jax.data.splits import ArraySplit


def grid(*sides):
    corners = np.argwhere(np.ones(sides, bool))
    return [types.SimpleNamespace(coords=tuple(int(x) for x in corner)) for corner in corners]


@pytest.mark.parametrize("sides", [(16, 16, 1), (2, 3), (3, 2, 1), (1, 4, 8), (2, 2), (7, 4)])
def test_ring_of_neighbours(sides):
    devices = grid(*sides)
    order = sharding.ring(devices)
    assert sorted(d.coords for d in order) == sorted(d.coords for d in devices)
    places = np.array([device.coords for device in order])
    distances = np.abs(places - np.roll(places, -1, axis=0)).sum(axis=1)
    np.testing.assert_array_equal(distances, 1)


@pytest.mark.parametrize("sides", [(3, 3), (4,), (4, 4, 4), (1, 1, 1)])
def test_other_grids_stay(sides):
    """No closed snake, or no need of one."""
    devices = grid(*sides)
    assert sharding.ring(devices) == devices


def test_devices_without_a_grid_stay():
    assert sharding.ring(jax.devices()) == jax.devices()
    with_holes = grid(4, 4)[:-1]
    assert sharding.ring(with_holes) == with_holes
    cores = grid(2, 2) + grid(2, 2)
    assert sharding.ring(cores) == cores


def test_mesh():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == ("data",)
    assert mesh.size == jax.device_count()


@pytest.fixture
def process(monkeypatch):
    """Pretends that this is one of several processes, each with the next share of a batch."""

    def pretend(index, count):
        def rows(mesh, size):
            return np.arange(size).reshape(count, -1)[index]

        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(sharding, "local_rows", rows)

    return pretend


SPLIT = ArraySplit(np.zeros((30, 1, 1, 1), np.uint8), np.arange(30), np.arange(30) % 3)


def test_a_run_may_go_on_with_another_number_of_processes(process):
    """The shares of all processes are the stream, whatever their number at each step."""
    for step in range(25):
        count = [1, 2, 3, 4, 6][step % 5]
        shares = []
        for index in range(count):
            process(index, count)
            (batch,) = train_batches(
                sharding.LocalRows(SPLIT, None),
                seed=0,
                batch_size=12,
                first_step=step,
                last_step=step + 1,
            )
            shares.append(batch["fine"])
        whole = sample_indices(seed=0, step=step, batch_size=12, size=30)
        np.testing.assert_array_equal(np.concatenate(shares), whole)


@pytest.mark.parametrize(("batch_size", "count"), [(8, 4), (12, 6), (36, 2)])
def test_processes_evaluate_every_example_once(process, batch_size, count):
    shares = []
    for index in range(count):
        process(index, count)
        batches = evaluation_batches(sharding.LocalRows(SPLIT, None), batch_size=batch_size)
        shares.append([(batch["fine"], batch["where"], batch["index"]) for batch in batches])
    for batch in zip(*shares, strict=True):
        _, _, index = batch[0]
        found = np.concatenate([fine for fine, _, _ in batch])
        np.testing.assert_array_equal(found, index)
        assert all((other == index).all() for _, _, other in batch)
    seen = np.concatenate([index[where] for _, where, index in shares[0]])
    np.testing.assert_array_equal(seen, np.arange(30))
