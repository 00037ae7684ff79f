"""The subclass is learnt, then unlearned; descent is that of the written-out gradient."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import theory


def lengths_of(*, rows, mu, steps, noise="rest", seed=0):
    model = theory.Model(mu=mu, noise=noise)
    curve = theory.descend(
        theory.structure(theory.draw(model, seed), 1.0),
        theory.initial_weights(rows, model.dim, seed=seed),
        steps=steps,
    )
    assert curve.lengths.shape == (steps + 1, 4)
    return np.asarray(curve.lengths)


def test_subclass_is_learned_then_unlearned():
    found = lengths_of(rows=3, mu=1.0, steps=400)
    assert abs(int(np.argmax(found[:, 1])) - 31) <= 2
    assert np.max(found[:, 1]) == pytest.approx(0.34, abs=0.02)
    assert found[-1, 1] < 1e-3
    assert found[-1, 0] == pytest.approx(1.0, abs=0.005)
    # At the subclass's peak the class is not learnt yet.
    assert found[31, 0] < 0.05


@pytest.mark.slow
def test_wide_encoder_is_quicker():
    found = lengths_of(rows=500, mu=1.0, steps=100)
    assert abs(int(np.argmax(found[:, 1])) - 23) <= 1
    assert np.max(found[:, 1]) == pytest.approx(0.34, abs=0.02)
    assert found[-1, 1] < 0.002


def test_without_its_mean_the_subclass_is_never_learned():
    found = lengths_of(rows=3, mu=0.0, steps=400)
    assert np.max(found[:, 1]) < 0.005
    assert found[-1, 0] > 0.99


def test_noise_on_features_lowers_what_is_learned_of_the_class():
    found = lengths_of(rows=3, mu=1.0, steps=400, noise="all")
    assert found[-1, 0] == pytest.approx(0.996, abs=0.001)
    assert found[-1, 1] < 0.002


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_steps_follow_the_gradient(small, beta):
    whole, steps = theory.covariances(small), 7
    positives = theory.positives(whole, beta)
    start = theory.initial_weights(3, 8, scale=1.0)
    curve = theory.descend(theory.structure(small, beta), start, steps=steps, step_size=0.02)
    weights = jnp.asarray(start)
    for step in range(steps + 1):
        expected = np.linalg.norm(weights[:, :4], axis=0)
        np.testing.assert_allclose(curve.lengths[step], expected, rtol=1e-4)
        value = theory.loss(weights, whole.everything, positives)
        np.testing.assert_allclose(curve.losses[step], value, rtol=1e-4, atol=1e-5)
        if step < steps:
            weights = weights - 0.02 * theory.gradient(weights, whole.everything, positives)
    np.testing.assert_allclose(curve.weights, weights, rtol=1e-3, atol=1e-5)
    assert curve.weights.dtype == jnp.float32


def test_initial_weights_have_their_law():
    found = theory.initial_weights(200, 400, scale=0.5)
    assert found.shape == (200, 401)
    assert found.dtype == np.float32
    assert np.std(found) == pytest.approx(0.5 / 20, rel=0.02)
    np.testing.assert_array_equal(found, theory.initial_weights(200, 400, scale=0.5))
    assert np.mean(found == theory.initial_weights(200, 400, scale=0.5, seed=1)) < 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps: .* got 0"),
        ({"step_size": 0.0}, "step_size: expected a finite positive number, got 0.0"),
        ({"weights": np.zeros((3, 8), np.float32)}, r"weights: .*\[rows, 9\], got \(3, 8\)"),
        ({"weights": np.zeros((3, 9), np.int32)}, "weights: expected a floating point .*int32"),
    ],
)
def test_bad_arguments_are_named(small, change, words):
    given = {"weights": theory.initial_weights(3, 8), "steps": 1, "step_size": 0.1} | change
    with pytest.raises(theory.ModelError, match=words):
        theory.descend(theory.structure(small, 1.0), **given)


@pytest.mark.parametrize("name", ["rows", "dim", "scale", "seed"])
def test_bad_initial_weights_are_named(name):
    given = {"rows": 1, "dim": 1, "scale": 1.0, "seed": 0} | {name: -1}
    with pytest.raises(theory.ModelError, match=f"{name}: .* got -1"):
        theory.initial_weights(**given)


def test_model_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        theory.Model().mu = 0.0
