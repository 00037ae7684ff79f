"""The frozen encoder over a split."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data.sources import load
from thanos_jax.downstream import placing
from thanos_jax.train import embed
from thanos_jax.train.build import build


@pytest.fixture(scope="module")
def training():
    config = schema.default()
    config.model.vit.update(width=16, depth=1, heads=2, mlp_width=16, dropout=0.5)
    config.model.arrangement = "joint"
    config.model.decoder = "mlp"
    return build(config, load(config.data), sharding.make_mesh())


def _forward(training, images):
    return training.forward({"params": training.state.params, **training.state.model_state}, images)


def test_every_image_once_in_order_whatever_the_batch(training):
    split = training.dataset.splits["validation"]
    found = []
    for size in (64, 56):
        config = training.config.copy_and_resolve_references()
        config.train.batch_size = size
        found.append(embed.embed(training._replace(config=config), training.state, split))
    assert len(split) % 64
    for one in found:
        assert one["embedding"].shape == (len(split), 32)
        assert one["embedding"].dtype == np.float32
        everything = split.read(np.arange(len(split)))
        np.testing.assert_array_equal(one["fine"], everything["fine"])
        np.testing.assert_array_equal(one["coarse"], everything["coarse"])
        # Without dropout an image's embedding does not depend on when it is asked for.
        few = _forward(training, everything["image"][5:7])["embedding"]
        np.testing.assert_allclose(one["embedding"][5:7], few, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[0]["embedding"], found[1]["embedding"], rtol=2e-5, atol=2e-6)
    assert set(np.unique(found[0]["prediction"])) <= {0, 1}


def test_rows_that_stay_on_devices_are_those_of_the_process(training):
    split = training.dataset.splits["validation"]
    here, there = (
        embed.embed(training, training.state, split, on_devices=stay) for stay in (False, True)
    )
    placed = there["embedding"]
    assert placed.shape == here["embedding"].shape
    assert len(placed.rows.sharding.device_set) == 8
    assert {shard.data.shape for shard in placed.rows.addressable_shards} == {
        (len(placed.rows) // 8, placed.shape[1])
    }
    np.testing.assert_allclose(placing.whole(placed), here["embedding"], rtol=2e-5, atol=2e-6)
    for name in ("fine", "coarse", "prediction"):
        np.testing.assert_array_equal(there[name], here[name])
    assert here["embedding"].ctypes.data % 64 == 0  # a CPU device takes it without a copy


def test_reconstructions_come_with_their_input(training):
    dataset = training.dataset
    outputs = _forward(training, dataset.splits["test"].read(np.arange(3))["image"])
    assert outputs["input"].shape == outputs["reconstruction"].shape == (3, *dataset.image_shape)
