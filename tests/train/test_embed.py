"""The frozen encoder over a split."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import run, sharding
from thanos_jax.data.sources import load
from thanos_jax.train import embed


@pytest.fixture(scope="module")
def setting():
    config = schema.default()
    config.model.vit.update(width=16, depth=1, heads=2, mlp_width=16, dropout=0.5)
    config.model.arrangement = "joint"
    config.model.decoder = "mlp"
    dataset = load(config.data)
    mesh = sharding.make_mesh()
    return dataset, mesh, run.build(config, dataset, mesh)


def test_every_image_once_in_order_whatever_the_batch(setting):
    dataset, mesh, parts = setting
    split = dataset.splits["validation"]
    variables = {"params": parts.state.params, **parts.state.model_state}
    found = [
        embed.embed(parts.forward, variables, split, mesh, batch_size=size) for size in (64, 56)
    ]
    assert len(split) % 64
    for one in found:
        assert one["embedding"].shape == (len(split), 32)
        assert one["embedding"].dtype == np.float32
        everything = split.read(np.arange(len(split)))
        np.testing.assert_array_equal(one["fine"], everything["fine"])
        np.testing.assert_array_equal(one["coarse"], everything["coarse"])
        # Without dropout an image's embedding does not depend on when it is asked for.
        few = parts.forward(variables, everything["image"][5:7])["embedding"]
        np.testing.assert_allclose(one["embedding"][5:7], few, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[0]["embedding"], found[1]["embedding"], rtol=2e-5, atol=2e-6)
    assert set(np.unique(found[0]["prediction"])) <= {0, 1}


def test_reconstructions_come_with_their_input(setting):
    dataset, _, parts = setting
    variables = {"params": parts.state.params, **parts.state.model_state}
    outputs = parts.forward(variables, dataset.splits["test"].read(np.arange(3))["image"])
    assert outputs["input"].shape == outputs["reconstruction"].shape == (3, *dataset.image_shape)
