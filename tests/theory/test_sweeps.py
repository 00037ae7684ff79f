"""Strong irrelevant features push the class out of a narrow encoder; the joint loss keeps it."""

import dataclasses

import numpy as np
import pytest

from thanos_jax import theory
from thanos_jax.theory import minimizers, sweeps


def narrow(features, samples=1152, **changes):
    return theory.Model(samples=samples, features=features, phi_1=0.8, phi_2=1.0, mu=0.0, **changes)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("features", [3, 50])
def test_class_is_lost_above_the_threshold(features):
    model = narrow(features)
    threshold = sweeps.threshold(model)
    assert threshold**2 / (features - 2) == pytest.approx(0.8**2)
    strengths = [0.5 * threshold, 0.99 * threshold, 1.01 * threshold, 1.5 * threshold]
    found = sweeps.strength(model, strengths, beta=0.0, rows=features)
    np.testing.assert_allclose(found[:, 0], [1.25, 1.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 1.0, atol=1e-6)
    # One row more, and nothing has to be left out.
    wide = sweeps.strength(model, strengths[-1:], beta=0.0, rows=features + 1)
    np.testing.assert_allclose(wide[0, 0], 1.25, atol=1e-6)


def test_joint_loss_keeps_class_and_subclass():
    model = narrow(3, samples=384, phi_k=0.88)
    betas = [0.0, 0.01, 0.5, 0.99, 1.0]
    found = sweeps.weight(model, betas, rows=3)
    np.testing.assert_allclose(found[1:, 0], 1.25, atol=1e-3)  # lost without supervision only
    np.testing.assert_allclose(found[:, 1], np.sqrt(1 - np.array(betas)), atol=1e-3)
    assert found[0, 0] < 0.01
    strengths = sweeps.strength(model, [0.5, 0.88], beta=0.5, rows=3)
    np.testing.assert_allclose(strengths[1], found[2], atol=1e-9)


@pytest.mark.parametrize("noise", theory.data.NOISES)
def test_sweep_is_that_of_minimizers_one_by_one(noise):
    # Few images of few directions, and a mean. Two irrelevant features are equally frequent, which
    # leaves open which of them is learnt: only their sum is compared.
    model = theory.Model(samples=40, augmentations=2, dim=30, features=5, mu=0.4, noise=noise)
    strengths = [0.7, 1.9, 3.1]
    for beta in (0.0, 0.3, 1.0):
        found = sweeps.strength(model, strengths, beta=beta, rows=4, seed=2)
        for lengths, phi_k in zip(found, strengths, strict=True):
            sample = theory.draw(dataclasses.replace(model, phi_k=phi_k), 2)
            whole = theory.covariances(sample)
            weights = minimizers.dense(whole.everything, theory.positives(whole, beta), 4)
            expected = np.linalg.norm(weights[:, :5], axis=0)
            np.testing.assert_allclose(lengths[:2], expected[:2], atol=1e-7)
            assert np.linalg.norm(lengths) == pytest.approx(np.linalg.norm(expected), abs=1e-7)


def test_bad_arguments_are_named():
    model = narrow(3, samples=8)
    with pytest.raises(theory.ModelError, match=r"phi_k: .* none"):
        sweeps.strength(model, [], beta=0.0, rows=3)
    with pytest.raises(theory.ModelError, match=r"phi_k: .* got -1"):
        sweeps.strength(model, [-1], beta=0.0, rows=3)
    with pytest.raises(theory.ModelError, match=r"betas: .* none"):
        sweeps.weight(model, [], rows=3)
    with pytest.raises(theory.ModelError, match=r"beta: .* got 2"):
        sweeps.weight(model, [2], rows=3)
