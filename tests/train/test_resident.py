"""Steps run in one program on a resident training set: those of the host's loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainings import make_mesh

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data import batches, sources
from thanos_jax.data.splits import ArraySplit, DerivedSplit
from thanos_jax.errors import ConfigError
from thanos_jax.train import loop, resident
from thanos_jax.train.build import build
from thanos_jax.train.two_views import INPUTS, two_views
from thanos_jax.train.update import make_step


def _config():
    config = schema.default()
    config.method = "spread"
    config.seed = 3
    config.data.random_bits = 2
    config.model.encoder = "mlp"
    config.model.mlp.widths = (16, 8)
    config.train.batch_size = 32
    config.train.epochs = 2.0
    return config


@pytest.mark.slow
def test_windows_on_eight_devices_do_what_single_steps_do():
    config = _config()
    dataset = sources.load(config.data)
    split = dataset.splits["train"]
    mesh = make_mesh(8)
    training = build(config, dataset, mesh)
    step = make_step(training, two_views(training))
    state, expected = jax.tree.map(jnp.copy, training.state), []
    # Over the end of the first epoch (1,294 images, 40 steps), in windows of unlike lengths.
    stream = batches.train_batches(split, seed=3, batch_size=32, first_step=38, last_step=43)
    for batch in stream:
        inputs = sharding.shard(mesh, {name: batch[name] for name in INPUTS})
        state, metrics = step(state, inputs, np.uint32(3))
        expected.append(jax.device_get(metrics))
    window = resident.make_window(
        step, split, mesh, seed=3, batch_size=32, longest=4, inputs=INPUTS
    )
    ours, first = window(training.state, 38, 39)
    ours, second = window(ours, 39, 43)
    for name in expected[0]:
        found = np.concatenate([first[name], second[name]])
        np.testing.assert_allclose(found, [e[name] for e in expected], rtol=2e-5, err_msg=name)
    assert int(ours.step) == 5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        ours.params,
        state.params,
    )
    with pytest.raises(ValueError, match="a window has 1 to 4 steps; got 3 to 8"):
        window(ours, 3, 8)


def test_shapes_are_those_of_the_arrays_stored():
    """A split within another is stored whole, with what the outer one leaves out."""
    whole = ArraySplit(np.zeros((9, 2, 2, 1), np.uint8), np.arange(9), np.arange(9) % 2)
    inner = DerivedSplit(whole, {"group": np.arange(9)}, np.arange(7))
    splits = (
        whole,
        inner,
        DerivedSplit(inner, {"weight": np.ones(7, np.float32)}, np.array([4, 2])),
        DerivedSplit(whole, {"weight": np.ones(9, np.float32)}, np.array([4, 2])),
    )
    for split in splits:
        batch = {
            name: jax.ShapeDtypeStruct((6, *x.shape[1:]), x.dtype)
            for name, x in split.read(np.arange(1)).items()
        }
        stored, indices = resident.program_shapes(split, make_mesh(2), batch, longest=3)
        assert indices.shape == (3, 6)
        for name, shape in stored.items():
            array = resident._array(split, name)
            assert (shape.shape, shape.dtype) == (array.shape, array.dtype), name


@pytest.mark.parametrize("in_memory", [True, False])
def test_choice(in_memory, monkeypatch):
    class Split:
        pass

    Split.in_memory = in_memory
    assert not loop.on_devices("no", Split)
    assert not loop.on_devices("auto", Split)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loop.on_devices("auto", Split) == in_memory
    if in_memory:
        assert loop.on_devices("yes", Split)
    else:
        with pytest.raises(ConfigError, match=r"train\.resident: expected 'auto' or 'no'"):
            loop.on_devices("yes", Split)
