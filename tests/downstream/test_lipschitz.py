import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.downstream.lipschitz import (
    encoder_and_decoder,
    lipschitz,
    local_lipschitz,
    pair_lipschitz,
)
from thanos_jax.models import MLP, Thanos
from thanos_jax.models.decoder import MLPDecoder

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def two_layers(x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ random(6, 9, seed=1))
    return (hidden @ random(9, 8, seed=2)).reshape(len(x), 4, 2)


def jacobian_norms(apply, inputs):
    """The full Jacobian of each row, and its largest singular value."""
    jacobian = jax.jacobian(lambda x: apply(x[None])[0].reshape(-1))
    matrices = np.float64(jax.jit(jax.vmap(jacobian))(inputs))
    return np.array([np.linalg.norm(m.reshape(len(m), -1), 2) for m in matrices])


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 1), (1, 6)])
def test_a_linear_map(shape):
    weights = random(*shape)
    inputs = random(4, shape[0], seed=3)
    found = local_lipschitz(lambda x: x @ weights + 1, inputs, KEY, iterations=200)
    assert found.shape == (4,)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.full(4, np.linalg.norm(weights, 2)), rtol=1e-5)


def test_a_network_against_its_jacobians():
    inputs = random(5, 3, 2, seed=3)
    expected = jacobian_norms(two_layers, inputs)
    assert np.ptp(expected) > 0.1
    estimate = jax.jit(
        lambda iterations: local_lipschitz(two_layers, inputs, KEY, iterations=iterations),
        static_argnums=0,
    )
    np.testing.assert_allclose(estimate(100), expected, rtol=1e-5)
    # Never above, and more iterations never lower it.
    values = [estimate(iterations) for iterations in (1, 3, 10)]
    for lower, higher in zip(values, [*values[1:], expected], strict=True):
        assert (np.asarray(lower) <= np.asarray(higher) * (1 + 1e-5)).all()
    assert (np.asarray(values[0]) < expected * 0.999).any()


def test_jit_vmap_and_the_batch_give_the_same():
    inputs = random(2, 5, 3, 2, seed=3)
    expected = [local_lipschitz(two_layers, rows, KEY, iterations=100) for rows in inputs]
    mapped = jax.vmap(lambda rows: local_lipschitz(two_layers, rows, KEY, iterations=100))(inputs)
    compiled = jax.jit(lambda rows: local_lipschitz(two_layers, rows, KEY, iterations=100))
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    np.testing.assert_allclose(compiled(inputs[0]), expected[0], rtol=1e-5)


def test_scales_and_constants():
    inputs = random(3, 4)
    big = local_lipschitz(lambda x: 1e25 * x, inputs, KEY)
    np.testing.assert_allclose(big, np.full(3, 1e25), rtol=1e-5)
    np.testing.assert_array_equal(local_lipschitz(jnp.zeros_like, inputs, KEY), np.zeros(3))


def test_summary_over_batches():
    inputs = random(7, 3, 2, seed=3)
    expected = jacobian_norms(two_layers, inputs)
    for size in (2, 3, 100):
        found = lipschitz(two_layers, inputs, KEY, iterations=100, batch_size=size)
        assert found["lipschitz_median"] == pytest.approx(np.median(expected), rel=1e-5)
        assert found["lipschitz_max"] == pytest.approx(expected.max(), rel=1e-5)
        assert all(type(value) is float for value in found.values())


def test_pairs():
    weights = random(6, 4)
    inputs = random(40, 3, 2, seed=5)
    inputs[7] = inputs[3]
    outputs = inputs.reshape(40, -1) @ weights
    found = pair_lipschitz(inputs, outputs)
    ratios = [
        np.linalg.norm(outputs[i] - outputs[j]) / np.linalg.norm(inputs[i] - inputs[j])
        for i in range(40)
        for j in range(i)
        if (i, j) != (7, 3)
    ]
    assert found["pair_lipschitz_median"] == pytest.approx(np.median(ratios), rel=1e-4)
    assert found["pair_lipschitz_max"] == pytest.approx(np.max(ratios), rel=1e-4)
    assert found["pair_lipschitz_max"] <= np.linalg.norm(weights, 2) * (1 + 1e-5)
    few = pair_lipschitz(inputs, outputs, samples=5)
    assert few == pair_lipschitz(inputs, outputs, samples=5)
    assert few["pair_lipschitz_max"] < found["pair_lipschitz_max"]
    assert few != pair_lipschitz(inputs, outputs, samples=5, seed=1)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arrangement", "encoders", "embedding_dim"),
    [("shared", 1, 3), ("separate", 2, 0), ("joint", 2, 0), ("separate", 2, 3)],
)
def test_encoders_and_decoders_of_models(arrangement, encoders, embedding_dim):
    model = Thanos(
        encoders=[MLP(widths=(5,)) for _ in range(encoders)],
        decoder=MLPDecoder(image_shape=(3, 2, 1), widths=(4,)),
        num_classes=2,
        arrangement=arrangement,
        embedding_dim=embedding_dim,
    )
    images = random(2, 3, 2, 1)
    outputs, variables = jax.jit(
        lambda: model.init_with_output(jax.random.key(1), images, train=False)
    )()
    encode, decode = encoder_and_decoder(model, variables)
    embeddings = jax.jit(encode)(images)
    np.testing.assert_allclose(embeddings, outputs["embedding"], rtol=1e-5, atol=1e-6)
    width = embedding_dim or 5
    images_again = jax.jit(decode)(embeddings[:, -width:])
    np.testing.assert_allclose(images_again, outputs["reconstruction"], rtol=1e-5, atol=1e-6)
    # One layer, or two: the encoder is linear, and its Jacobian the product of their kernels.
    params = variables["params"]
    kernels = []
    for index in range(encoders):
        kernel = params[f"encoders_{index}"]["layer_0"]["kernel"]
        if embedding_dim:
            kernel = kernel @ params[f"embedding_{index}"]["kernel"]
        kernels.append(kernel)
    expected = np.linalg.norm(np.concatenate(kernels, axis=1), 2)
    found = lipschitz(encode, images, KEY, iterations=200)
    assert found["lipschitz_max"] == pytest.approx(expected, rel=1e-4)


def test_a_model_without_decoder():
    model = Thanos(encoders=[MLP(widths=(5,))], decoder=None, num_classes=2, arrangement="shared")
    assert encoder_and_decoder(model, {"params": {}})[1] is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: local_lipschitz(abs, np.ones((2, 3)), KEY, iterations=0),
            ValueError,
            "iterations: .*got 0",
        ),
        (lambda: local_lipschitz(abs, np.ones((2, 3), int), KEY), TypeError, "inputs: .*int32"),
        (lambda: local_lipschitz(abs, np.ones(3), KEY), ValueError, r"inputs: .*\(3,\)"),
        (lambda: local_lipschitz(abs, np.ones((0, 3)), KEY), ValueError, r"inputs: .*\(0, 3\)"),
        (
            lambda: local_lipschitz(jnp.sum, np.ones((2, 3)), KEY),
            ValueError,
            r"apply: .*\[2, ...\].*\(\)",
        ),
        (
            lambda: local_lipschitz(lambda x: x > 0, np.ones((2, 3)), KEY),
            TypeError,
            "apply: .*bool",
        ),
        (
            lambda: lipschitz(abs, np.ones((2, 3)), KEY, batch_size=0),
            ValueError,
            "batch_size: .*got 0",
        ),
        (lambda: lipschitz(abs, np.ones((0, 3)), KEY), ValueError, r"inputs: .*\(0, 3\)"),
        (
            lambda: pair_lipschitz(np.ones((3, 2)), np.ones((4, 2))),
            ValueError,
            r"shapes \(3, 2\) and \(4, 2\)",
        ),
        (lambda: pair_lipschitz(np.ones((1, 2)), np.ones((1, 2))), ValueError, "n >= 2"),
        (lambda: pair_lipschitz(np.ones((3, 2)), np.eye(3)), ValueError, "all equal"),
        (lambda: pair_lipschitz(np.eye(3), np.eye(3), samples=1), ValueError, "samples: .*got 1"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
