"""Covariances without their zeros are the same matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import theory
from thanos_jax.theory.structure import solve, times_covariance


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_products_are_those_of_the_matrices(small, beta):
    whole = theory.covariances(small)
    parts = theory.structure(small, beta)
    weights = np.random.default_rng(0).normal(size=(5, 9))
    with jax.enable_x64(True):
        got = times_covariance(jnp.asarray(weights), theory.Structure(*map(jnp.asarray, parts)))
    np.testing.assert_allclose(got, weights @ whole.everything, atol=1e-13)
    expected = theory.positives(whole, beta)
    np.testing.assert_allclose(parts.factor.T @ parts.factor, expected, atol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_solutions_are_those_of_the_pseudo_inverse(small, beta):
    everything = theory.covariances(small).everything
    parts = theory.structure(small, beta)
    rank = np.linalg.matrix_rank(everything, tol=1e-10)
    # Noise that is always there adds up to a constant, which must not be inverted.
    assert (rank < 9) == (small.model.noise == "rest")
    expected = parts.factor @ np.linalg.pinv(everything, rcond=1e-10, hermitian=True)
    np.testing.assert_allclose(solve(parts), expected, atol=1e-11)


def test_directions_that_no_noise_takes_are_left_alone():
    model = theory.Model(samples=8, augmentations=1, dim=40, features=3)
    sample = theory.draw(model)
    parts = theory.structure(sample, 0.5)
    everything = theory.covariances(sample).everything
    expected = parts.factor @ np.linalg.pinv(everything, rcond=1e-10, hermitian=True)
    assert np.sum(parts.noise == 0) > 20
    np.testing.assert_allclose(solve(parts), expected, atol=1e-11)


def test_bad_beta_is_named(small):
    with pytest.raises(theory.ModelError, match=r"beta: expected a number in \[0, 1\], got -0.1"):
        theory.structure(small, -0.1)
