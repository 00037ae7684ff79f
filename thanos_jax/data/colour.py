"""Changes of colour: brightness, contrast, saturation, hue, grey, as torchvision defines them.

Images and results are float32 [n, h, w, c] in [0, 1], with 3 channels unless stated otherwise. A
factor is float32 and broadcasts to the images.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# ITU-R BT.601 luma, as in Pillow's mode "L".
_GREY = (0.299, 0.587, 0.114)


def brightness(factor: Array, images: Array) -> Array:
    """Returns factor * images, clipped to [0, 1]; any number of channels."""
    return jnp.clip(images * factor, 0.0, 1.0)


def contrast(factor: Array, images: Array) -> Array:
    """Returns factor * images + (1 - factor) * the image's mean grey, clipped to [0, 1].

    Images have 1 or 3 channels.
    """
    mean = images.mean(axis=(1, 2), keepdims=True)
    return _blend(images, _luma(mean) if images.shape[-1] == 3 else mean, factor)


def saturation(factor: Array, images: Array) -> Array:
    """Returns factor * images + (1 - factor) * grey(images), clipped to [0, 1]."""
    return _blend(images, _luma(images), factor)


def hue(shift: Array, images: Array) -> Array:
    """Returns images with their hue (HSV) shifted; value and saturation stay the same.

    The shift is float32 [n, 1, 1, 1] or broadcastable, in turns: 1/3 takes red to green.
    """
    red, green, blue = (images[..., channel : channel + 1] for channel in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    # HSV to RGB without branches: each channel falls by the chroma on its own side of the circle.
    side = sixths + 6.0 * shift + np.array([[[[5.0, 3.0, 1.0]]]], np.float32)
    side = side - 6.0 * jnp.floor(side / 6.0)
    return value - chroma * jnp.clip(jnp.minimum(side, 4.0 - side), 0.0, 1.0)


def grey(images: Array) -> Array:
    """Returns images with every channel replaced by the grey 0.299 R + 0.587 G + 0.114 B."""
    return jnp.broadcast_to(_luma(images), images.shape)


_CHANGES = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


def jitter(key: Array, images: Array, strengths: Sequence[float], probability: float) -> Array:
    """Changes brightness, contrast, saturation and hue of a random share of the images.

    Amounts are drawn per image, the order of the changes once for the batch.

    Args:
        key: a PRNG key.
        images: float32 [n, h, w, c] in [0, 1].
        strengths: strengths of brightness, contrast, saturation and hue, as in `augment`; a change
            of strength 0 is not traced. At least one is positive; with one channel the last two
            are 0.
        probability: probability that an image is changed.

    Returns:
        float32 [n, h, w, c] in [0, 1].
    """
    order_key, key = jax.random.split(key)
    # One draw for all amounts and the choice of images, because every call adds to compile time.
    *drawn, chosen = jax.random.uniform(key, (len(_CHANGES) + 1, images.shape[0], 1, 1, 1))
    changes = []
    for name, strength, amount in zip(_CHANGES, strengths, drawn, strict=True):
        if strength == 0:
            continue
        hued = name == "hue"
        low, high = (-strength, strength) if hued else (max(0.0, 1 - strength), 1 + strength)
        changes.append(functools.partial(_CHANGES[name], low + amount * (high - low)))
    changed = images
    order = jax.random.permutation(order_key, len(changes))
    for place in range(len(changes)):
        changed = jax.lax.switch(order[place], changes, changed)
    return jnp.where(chosen < probability, changed, images)


def _luma(images: Array) -> Array:
    """Returns the grey of each pixel, [..., 1]; a sum of channels is faster than a product."""
    red, green, blue = (images[..., channel : channel + 1] for channel in range(3))
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def _blend(images: Array, other: Array, factor: Array) -> Array:
    return jnp.clip(factor * images + (1.0 - factor) * other, 0.0, 1.0)
