"""The order of devices in the mesh."""

import types

import jax
import numpy as np
import pytest

from thanos_jax import sharding


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
