"""RandBit: random bits that the views of an image share, appended to every image on the device.

Both views of an image have the same n bits, a hash of the image, which augmentation does not
change. A contrastive loss between views can be minimized from these bits alone, which is feature
suppression.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thanos_jax.checks import check_option

Array = jax.Array

FORMS = ("channels", "integer")


def channels(bits: int, form: str) -> int:
    """Returns the number of channels that `append` adds.

    Args:
        bits: number of bits, 0 to 32.
        form: "channels" or "integer".

    Raises:
        ValueError: bits or form out of range.
    """
    if not 0 <= bits <= 32:
        raise ValueError(f"bits: expected 0 to 32, got {bits}")
    check_option("form", form, FORMS)
    return bits if form == "channels" else min(bits, 1)


def hash_images(images: Array) -> Array:
    """Returns a hash of each image's pixels; it does not depend on the batch or the device.

    The hash is a sum of pixels weighted by fixed random 32-bit numbers, modulo 2^32, whose bits are
    then mixed as in the last step of MurmurHash3.

    Args:
        images: uint8 [n, h, w, c].

    Returns:
        uint32 [n].

    Raises:
        TypeError: images are not uint8.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise TypeError(f"images: expected uint8, to be hashed, got {images.dtype}")
    weights = np.random.default_rng(0).integers(2**32, size=images.shape[1:], dtype=np.uint32)
    value = jnp.sum(images.astype(jnp.uint32) * weights[None], axis=(1, 2, 3), dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = (value ^ (value >> shift)) * jnp.uint32(factor)
    return value ^ (value >> 16)


def append(inputs: Array, images: Array, *, bits: int, form: str = "channels") -> Array:
    """Appends the bits of each image to the model's inputs, as constant channels.

    Args:
        inputs: floating [n, views, h, w, c] or [n, h, w, c]: the images as the model sees them,
            augmented and normalized.
        images: uint8 [n, h', w', c']: the images as stored.
        bits: number of bits, 0 to 32.
        form: "channels": n channels, each 0 or 1. "integer": one channel, the bits read as an
            integer and divided by 2^bits - 1.

    Returns:
        The inputs with `channels(bits, form)` more channels, the same for every view of an image.

    Raises:
        TypeError: images are not uint8.
        ValueError: bits or form out of range.

    Source: bits as channels from Chen, Luo and Li, Intriguing Properties of Contrastive Losses,
    arXiv 2011.02803; one integer channel from Xue et al., arXiv 2305.16536. Neither says how the
    integer is scaled.
    """
    count = channels(bits, form)
    if not count:
        return inputs
    shifts = np.arange(bits, dtype=np.uint32)[None]
    values = (hash_images(images)[:, None] >> shifts) & jnp.uint32(1)
    values = values.astype(inputs.dtype)
    if form == "integer":
        weights = 2.0**shifts / (2.0**bits - 1)
        values = (values * weights.astype(inputs.dtype)).sum(axis=1, keepdims=True)
    values = values.reshape(values.shape[0], *(1,) * (inputs.ndim - 2), count)
    return jnp.concatenate([inputs, jnp.broadcast_to(values, (*inputs.shape[:-1], count))], axis=-1)
