"""Bits that both views share: a hash of the image, the same everywhere, evenly distributed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.data import random_bits


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(256, size=(4096, 4, 4, 1), dtype=np.uint8)


def _hash(image):
    """The definition, in Python's integers."""
    weights = np.random.default_rng(0).integers(2**32, size=image.shape, dtype=np.uint32)
    value = sum(int(p) * int(w) for p, w in zip(image.ravel(), weights.ravel(), strict=True))
    value %= 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = (value ^ (value >> shift)) * factor % 2**32
    return value ^ (value >> 16)


def test_hash_is_its_definition_whatever_the_batch(images):
    found = np.asarray(random_bits.hash_images(images))
    assert found.dtype == np.uint32
    assert found[:20].tolist() == [_hash(image) for image in images[:20]]
    np.testing.assert_array_equal(jax.jit(random_bits.hash_images)(images[7:19]), found[7:19])


def test_bits_are_even_and_independent(images):
    found = np.asarray(random_bits.hash_images(images))
    bits = (found[:, None] >> np.arange(32)) & 1
    # Five standard deviations of a fair coin; pairs likewise.
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(images))
    signs = 2.0 * bits - 1
    off_diagonal = signs.T @ signs / len(images) - np.eye(32)
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(len(images))
    # One grey level of one pixel changes half of the bits.
    nudged = images[:512].copy()
    nudged[:, 2, 1, 0] ^= 1
    changed = np.asarray(random_bits.hash_images(nudged)) ^ found[:512]
    assert 14 < np.mean([int(x).bit_count() for x in changed]) < 18


def test_appends_the_same_constant_channels_to_every_view(images):
    some = images[:6]
    views = np.random.default_rng(2).normal(size=(6, 2, 5, 3, 2)).astype(np.float32)
    found = np.asarray(random_bits.append(views, some, bits=7))
    assert found.shape == (6, 2, 5, 3, 9)
    np.testing.assert_array_equal(found[..., :2], views)
    expected = [[(_hash(image) >> k) & 1 for k in range(7)] for image in some]
    for view in range(2):
        for y in range(5):
            np.testing.assert_array_equal(found[:, view, y, 2, 2:], expected)
    whole = np.asarray(random_bits.append(views[:, 0], some, bits=7, form="integer"))
    assert whole.shape == (6, 5, 3, 3)
    integers = [_hash(image) % 2**7 / 127 for image in some]
    np.testing.assert_allclose(whole[:, 1, 1, 2], integers, rtol=1e-6)


def test_no_bits_change_nothing(images):
    inputs = jnp.ones((4, 3, 3, 1))
    for form in random_bits.FORMS:
        assert random_bits.append(inputs, images[:4], bits=0, form=form) is inputs
        assert random_bits.channels(0, form) == 0


def test_bad_arguments_are_named(images):
    inputs = jnp.ones((4, 3, 3, 1))
    with pytest.raises(ValueError, match="bits: expected 0 to 32, got 33"):
        random_bits.append(inputs, images[:4], bits=33)
    with pytest.raises(
        ValueError, match=r"form: expected one of .*'channels', 'integer'.*, got 'bits'"
    ):
        random_bits.append(inputs, images[:4], bits=3, form="bits")
    with pytest.raises(TypeError, match="images: expected uint8, to be hashed, got float32"):
        random_bits.append(inputs, np.ones((4, 3, 3, 1), np.float32), bits=3)
