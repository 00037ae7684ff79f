"""The closed form is where descent and a numerical optimizer arrive."""

import numpy as np
import pytest
import scipy.optimize

from thanos_jax import theory
from thanos_jax.theory import minimizers

BETAS = pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])


def value_and_slope(weights, whole, positives):
    """In NumPy's float64, apart from the code under test."""
    embedded = weights @ whole.everything @ weights.T
    value = -2 * np.trace(weights @ positives @ weights.T) + np.trace(embedded @ embedded)
    moved = weights @ whole.everything
    return value, -4 * weights @ positives + 4 * moved @ weights.T @ moved


def close(found, expected, whole, positives, tolerance):
    np.testing.assert_allclose(found.T @ found, expected.T @ expected, atol=tolerance)
    value = value_and_slope(found, whole, positives)[0]
    assert value == pytest.approx(value_and_slope(expected, whole, positives)[0], abs=tolerance)


@BETAS
def test_formula_with_enough_rows(small, beta):
    whole = theory.covariances(small)
    positives = theory.positives(whole, beta)
    inverse = np.linalg.pinv(whole.everything, rcond=1e-10, hermitian=True)
    expected = inverse @ positives @ inverse
    for found in (
        minimizers.dense(whole.everything, positives, 9),
        minimizers.structured(theory.structure(small, beta), 9),
        minimizers.structured(theory.structure(small, beta), 11),
    ):
        np.testing.assert_allclose(found.T @ found, expected, atol=1e-10)
        np.testing.assert_allclose(value_and_slope(found, whole, positives)[1], 0, atol=1e-10)


@BETAS
def test_descent_of_2000_steps_arrives_there(beta):
    # Few directions of strong noise: a well-conditioned M, which 2,000 steps are enough for.
    model = theory.Model(samples=64, augmentations=4, dim=6, features=4, mu=0.3)
    sample = theory.draw(model)
    whole, parts = theory.covariances(sample), theory.structure(sample, beta)
    start = theory.initial_weights(7, 6)
    curve = theory.descend(parts, start, steps=2000, step_size=0.03)
    positives = theory.positives(whole, beta)
    expected = minimizers.dense(whole.everything, positives, 7)
    close(np.float64(curve.weights), expected, whole, positives, 1e-3)
    value = value_and_slope(expected, whole, positives)[0]
    assert float(curve.losses[-1]) == pytest.approx(value, abs=1e-3)
    assert float(curve.losses[0]) > value + 0.5


@BETAS
@pytest.mark.parametrize("rows", [1, 2, 4, 9])
def test_a_numerical_optimizer_arrives_there(small, beta, rows):
    whole = theory.covariances(small)
    positives = theory.positives(whole, beta)
    inverse = np.linalg.pinv(whole.everything, rcond=1e-10, hermitian=True)
    onto_range = inverse @ whole.everything

    def objective(flat):
        value, slope = value_and_slope(flat.reshape(rows, 9), whole, positives)
        return value, slope.ravel()

    # Started in M's range it stays there, for so do gradients: the part of least norm.
    start = np.random.default_rng(0).normal(size=(rows, 9)) @ onto_range
    result = scipy.optimize.minimize(
        objective, start.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": 1500, "maxfun": 3000, "ftol": 0, "gtol": 1e-8},
    )  # fmt: skip
    found = result.x.reshape(rows, 9)
    expected = minimizers.dense(whole.everything, positives, rows)
    structured = minimizers.structured(theory.structure(small, beta), rows)
    for one in (expected, structured):
        assert value_and_slope(one, whole, positives)[0] == pytest.approx(result.fun, abs=1e-8)
    assert np.sum(structured**2) == pytest.approx(np.sum(expected**2), abs=1e-9)
    if not tied(whole, positives, rows):
        np.testing.assert_allclose(structured.T @ structured, expected.T @ expected, atol=1e-9)
        np.testing.assert_allclose(found.T @ found, expected.T @ expected, atol=1e-4)
    else:  # of minimizers, the closed form has the least norm
        assert np.sum(expected**2) <= np.sum(found**2) + 1e-6


def tied(whole, positives, rows):
    values, vectors = np.linalg.eigh(whole.everything)
    kept = values > 1e-10
    root = vectors[:, kept] / np.sqrt(values[kept])
    spectrum = np.linalg.eigvalsh(root.T @ positives @ root)[::-1]
    return rows < len(spectrum) and spectrum[rows - 1] - spectrum[rows] < 1e-6


def test_of_tied_minimizers_the_least_norm_is_found():
    # Without noise every feature is as well aligned as any other: weak ones cost larger weights.
    strengths = np.array([0.5, 2.0, 1.0, 3.0])
    moments = np.diag(strengths**2)
    found = minimizers.dense(moments, moments, 2)
    expected = np.diag([0, 1 / 4, 0, 1 / 9])
    np.testing.assert_allclose(found.T @ found, expected, atol=1e-12)
    # A larger eigenvalue comes first, whatever it costs.
    found = minimizers.dense(moments, np.diag([1.1, 1, 1, 1]) @ moments, 2)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), [2 * 1.1**0.5, 0, 0, 1 / 3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: minimizers.dense(m[0], m, 1), r"covariance: expected a square .*\(3,\)"),
        (lambda m: minimizers.dense(m, m[:2], 1), r"positives: .*\(3, 3\), got \(2, 3\)"),
        (lambda m: minimizers.dense(m, m, 0), "rows: .* got 0"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(theory.ModelError, match=words):
        call(np.eye(3))
