"""The losses are the spectral contrastive loss over pairs, and the gradient is theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import theory


def weights_of(rows, columns=9, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)) / 3


def over_pairs(weights, sample, together):
    """-2 E[f(x)'f(x+)] + E[(f(x)'f(x-))^2]; together(i, j): do images i and j attract?"""
    entries = [(i, weights @ x) for i, image in enumerate(theory.inputs(sample)) for x in image]
    attraction = repulsion = 0.0
    for i, x in entries:
        positives = [z for j, z in entries if together(i, j)]
        attraction += sum(float(x @ z) for z in positives) / len(positives)
        repulsion += sum(float(x @ z) ** 2 for _, z in entries) / len(entries)
    return (-2 * attraction + repulsion) / len(entries)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_losses_are_those_over_pairs_of_augmentations(small, rows):
    weights, found = weights_of(rows), theory.covariances(small)
    supervised = over_pairs(weights, small, lambda i, j: small.y[i] == small.y[j])
    unsupervised = over_pairs(weights, small, lambda i, j: i == j)
    with jax.enable_x64(True):
        assert float(theory.joint(weights, found, 1.0)) == pytest.approx(supervised, rel=1e-12)
        assert float(theory.joint(weights, found, 0.0)) == pytest.approx(unsupervised, rel=1e-12)
        for beta in (0.0, 0.3, 1.0):
            expected = beta * supervised + (1 - beta) * unsupervised
            assert float(theory.joint(weights, found, beta)) == pytest.approx(expected, rel=1e-12)
    assert abs(supervised - unsupervised) > 0.01


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradient_is_that_of_autodiff(small, beta):
    found = theory.covariances(small)
    positives = theory.positives(found, beta)
    with jax.enable_x64(True):
        weights = jnp.asarray(weights_of(3))
        got = theory.gradient(weights, found.everything, positives)
        expected = jax.grad(theory.loss)(weights, found.everything, positives)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
        by_name = jax.grad(lambda w: theory.joint(w, found, beta))(weights)
        np.testing.assert_allclose(got, by_name, rtol=1e-12, atol=1e-13)
    weights = jnp.asarray(weights_of(3), jnp.float32)
    low = theory.gradient(weights, found.everything, positives)
    assert low.dtype == theory.joint(weights, found, 1.0).dtype == jnp.float32
    np.testing.assert_allclose(low, got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w, m: theory.loss(w[0], m, m), r"weights: expected shape \[rows, 9\], got \(9,\)"),
        (lambda w, m: theory.gradient(w[:, :8], m, m), r"weights: .* got \(2, 8\)"),
        (lambda w, m: theory.loss(w.astype(int), m, m), "weights: expected a floating point"),
        (lambda w, m: theory.loss(w, m[:8], m), r"covariance: expected a square.*\(8, 9\)"),
        (lambda w, m: theory.loss(w, m, m[:8, :8]), r"positives: expected a square.*\(8, 8\)"),
        (lambda w, m: theory.joint(w, theory.Covariances(m, m, m), 1.5), "beta: .* got 1.5"),
        (lambda w, m: theory.joint(w, theory.Covariances(m, m, m), "x"), "beta: .* got 'x'"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(theory.ModelError, match=words):
        call(weights_of(2), np.eye(9))
