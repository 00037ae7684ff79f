"""The inputs are made of what the model says."""

import collections
import itertools

import numpy as np
import pytest

from thanos_jax import theory
from thanos_jax.errors import UserError


def test_every_input_is_the_sum_of_its_features(small):
    model, found = small.model, theory.inputs(small)
    assert found.shape == (16, 3, 9)
    basis = np.eye(9)
    for i in range(16):
        for a in range(3):
            expected = (
                small.y[i] * 0.8 * basis[0]
                + (small.y_sub[i] * 1.1 + 0.6) * basis[1]
                + small.rho[i] * 1.3 * basis[small.k[i] - 1]
                + 1.7 * basis[small.j[i, a] - 1]
                + basis[8]
            )
            np.testing.assert_allclose(found[i, a], expected, rtol=1e-15)
    assert small.j.min() >= (1 if model.noise == "all" else 5)
    assert small.j.max() <= 8


def test_signs_and_irrelevant_features_are_balanced():
    sample = theory.draw(theory.Model(samples=8 * 4 * 2, features=6))
    made = zip(sample.y, sample.y_sub, sample.rho, sample.k, strict=True)
    counts = collections.Counter(tuple(int(part) for part in parts) for parts in made)
    expected = itertools.product((-1, 1), (-1, 1), (-1, 1), (3, 4, 5, 6))
    assert counts == dict.fromkeys(expected, 2)


@pytest.mark.parametrize(("noise", "first"), [("rest", 5), ("all", 1)])
def test_noise_is_uniform_and_seeded(noise, first):
    model = theory.Model(samples=4000, augmentations=5, dim=12, noise=noise)
    one, same, other = theory.draw(model, 1), theory.draw(model, 1), theory.draw(model, 2)
    np.testing.assert_array_equal(one.j, same.j)
    assert np.mean(one.j != other.j) > 0.5
    counts = np.bincount(one.j.ravel(), minlength=13)
    assert not counts[:first].any()
    expected = one.j.size / (13 - first)
    assert np.all(np.abs(counts[first:] - expected) < 5 * np.sqrt(expected))
    # Augmentations of one image are redrawn, not repeated.
    assert np.mean(one.j[:, 0] == one.j[:, 1]) < 0.2


def test_covariances_are_means_of_outer_products(small):
    entries, found = theory.inputs(small), theory.covariances(small)
    everything = sum(np.outer(x, x) for image in entries for x in image) / 48
    image_means = sum(np.outer(image.mean(0), image.mean(0)) for image in entries) / 16
    class_means = 0
    for sign in (-1, 1):
        mean = np.mean([x for y, image in zip(small.y, entries, strict=True) if y == sign
                        for x in image], axis=0)  # fmt: skip
        class_means = class_means + np.outer(mean, mean) / 2
    for got, expected in zip(found, (everything, class_means, image_means), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 12}, "samples: expected a multiple of 8, got 12"),
        ({"samples": 0}, "samples: expected an integer of at least 8, got 0"),
        ({"samples": 16.0}, "samples: expected an integer"),
        ({"augmentations": 0}, "augmentations: expected an integer of at least 1, got 0"),
        ({"features": 2}, "features: expected an integer of at least 3, got 2"),
        ({"features": True}, "features: .* got True"),
        ({"dim": 4}, "dim: expected an integer of at least 5, got 4"),
        ({"phi_1": 0.0}, "phi_1: expected a finite positive number, got 0.0"),
        ({"phi_2": float("nan")}, "phi_2: .* got nan"),
        ({"phi_k": "1"}, "phi_k: .* got '1'"),
        ({"mu": float("inf")}, "mu: expected a finite number, got inf"),
        ({"sigma": -1.0}, "sigma: expected a finite number of at least 0, got -1.0"),
        ({"noise": "none"}, "noise: expected one of .*'rest', 'all'.* got 'none'"),
    ],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(theory.ModelError, match=words) as caught:
        theory.Model(**change)
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)


def test_negative_seed_is_named():
    with pytest.raises(theory.ModelError, match=r"seed: .* got -1"):
        theory.draw(theory.Model(samples=8), -1)
