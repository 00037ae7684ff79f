"""Orbax behind one small module."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import sharding
from thanos_jax.train.checkpoint import Checkpoints


def _state(value):
    return {"step": jnp.asarray(int(value)), "params": {"kernel": jnp.full((4, 2), value)}}


def test_newest_are_kept_and_come_back(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(_state(float(step)), step)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.latest_step() == 3
        for step in (2, 3):
            restored = checkpoints.restore(_state(0.0), step)
            jax.tree.map(np.testing.assert_array_equal, restored, _state(float(step)))
    assert not (tmp_path / "checkpoints" / "1").exists()


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(_state(1.0), 1)
        checkpoints.save(_state(2.0), 1)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.restore(_state(0.0), 1)["params"]["kernel"][0, 0] == 1.0


def test_restored_on_another_number_of_devices(tmp_path):
    eight = sharding.make_mesh()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(sharding.replicate(eight, _state(5.0)), 1)
    two = jax.make_mesh(
        (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored = checkpoints.restore(sharding.replicate(two, _state(0.0)), 1)
    kernel = restored["params"]["kernel"]
    np.testing.assert_array_equal(kernel, np.full((4, 2), 5.0))
    assert kernel.sharding.is_equivalent_to(NamedSharding(two, P()), 2)
