"""The frozen encoder over a split."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data.sources import load
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


def test_reconstructions_come_with_their_input(training):
    dataset = training.dataset
    outputs = _forward(training, dataset.splits["test"].read(np.arange(3))["image"])
    assert outputs["input"].shape == outputs["reconstruction"].shape == (3, *dataset.image_shape)
