"""Random crops, flips and colour changes of image batches, on the device and inside ``jit``.

All random numbers of a batch are drawn from one key. They depend on the key and on an image's
place in the global batch, not on the number of devices. A part that is turned off is not traced.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thanos_jax.checks import check_at_least, check_share
from thanos_jax.data import colour

Array = jax.Array


def augment(
    key: Array,
    images: Array,
    *,
    crop_scale: Sequence[float] = (0.2, 1.0),
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
    jitter_probability: float = 0.8,
    grey_probability: float = 0.2,
) -> Array:
    """Returns one random view of every image: crop, flip, colour jitter, grey, in this order.

    Each part is defined as in torchvision. Parameters are drawn per image. The order of the four
    colour changes is drawn once for the batch, because an order per image would compute all four
    changes at each place. With one channel only brightness and contrast apply.

    Args:
        key: a PRNG key.
        images: uint8 [n, h, w, c], divided by 255; or floating [n, h, w, c] in [0, 1].
        crop_scale: smallest and largest share of the image's area in a crop; (1, 1) is no crop.
        crop_ratio: smallest and largest width / height of a crop.
        flip: probability of a left-right flip; 0 is none.
        jitter: strengths of brightness, contrast, saturation (factors uniform in
            [max(0, 1 - strength), 1 + strength]) and hue (shift uniform in [-strength, strength]
            turns of the colour circle, strength at most 0.5); 0 turns one off.
        jitter_probability: share of images whose colours are jittered.
        grey_probability: share of images turned grey.

    Returns:
        float32 [n, h, w, c] in [0, 1].

    Raises:
        TypeError: images are neither uint8 nor floating.
        ValueError: a setting is out of its range, images are not of rank 4, or colours are to
            be changed and there are neither 1 nor 3 channels.

    Source: Chen et al., SimCLR, arXiv 2002.05709, appendix A; strengths of the Thanos code.
    """
    images = _to_unit(images)
    smallest, largest = _interval("crop_scale", crop_scale, high=1.0)
    ratio = _interval("crop_ratio", crop_ratio)
    check_share("flip", flip)
    check_share("jitter_probability", jitter_probability)
    check_share("grey_probability", grey_probability)
    strengths = _strengths(jitter, images.shape[-1])
    jittered = jitter_probability > 0 and any(strengths)
    channels = images.shape[-1]
    if (jittered or grey_probability > 0) and channels not in (1, 3):
        raise ValueError(
            f"images: expected 1 or 3 channels for jitter and grey, got shape {images.shape}; "
            "set jitter_probability=0 and grey_probability=0 for other images"
        )

    crop_key, flip_key, jitter_key, grey_key = jax.random.split(key, 4)
    count, height, width = images.shape[:3]
    if smallest < 1:
        boxes = random_boxes(crop_key, count, (height, width), (smallest, largest), ratio)
        images = crop(images, boxes)
    if flip > 0:
        chosen = jax.random.bernoulli(flip_key, flip, (count, 1, 1, 1))
        images = jnp.where(chosen, images[:, :, ::-1], images)
    if jittered:
        images = colour.jitter(jitter_key, images, strengths, jitter_probability)
    if grey_probability > 0 and channels == 3:
        chosen = jax.random.bernoulli(grey_key, grey_probability, (count, 1, 1, 1))
        images = jnp.where(chosen, colour.grey(images), images)
    return images


def views(key: Array, images: Array, num_views: int, **settings: Any) -> Array:
    """Returns independent random views of every image.

    Args:
        key: a PRNG key.
        images: uint8 or floating [n, h, w, c], as in `augment`.
        num_views: how many views of each image, at least 1.
        **settings: keywords of `augment`.

    Returns:
        float32 [n, num_views, h, w, c] in [0, 1]: `augment` of the batch in which every image
        stands num_views times. All views share the batch's order of colour changes.

    Raises:
        TypeError: as `augment`.
        ValueError: num_views < 1; as `augment`.
    """
    check_at_least("num_views", num_views, 1)
    drawn = augment(key, jnp.repeat(images, num_views, axis=0), **settings)
    return drawn.reshape(images.shape[0], num_views, *drawn.shape[1:])


def normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Returns standardized images, (images - mean) / std per channel.

    Args:
        images: uint8 [..., c], divided by 255; or floating [..., c] in [0, 1].
        mean: per channel, of images in [0, 1]; length c.
        std: per channel, of images in [0, 1]; length c, positive.

    Returns:
        float32 [..., c].

    Raises:
        TypeError: images are neither uint8 nor floating.
        ValueError: mean or std is not of length c, or a std is not positive.
    """
    offset, scale = _statistics(images, mean, std)
    return (_to_unit(images, rank=None) - offset) / scale


def unnormalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Inverts `normalize`: returns images * std + mean, clipped to [0, 1].

    Args:
        images: floating [..., c], standardized, for instance reconstructions.
        mean: as in `normalize`.
        std: as in `normalize`.

    Returns:
        float32 [..., c] in [0, 1].

    Raises:
        ValueError: as `normalize`.
    """
    offset, scale = _statistics(images, mean, std)
    return jnp.clip(jnp.asarray(images, jnp.float32) * scale + offset, 0.0, 1.0)


def random_boxes(
    key: Array,
    count: int,
    size: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> Array:
    """Returns boxes of random area, aspect ratio and place inside an image.

    The area is uniform in `scale`, width / height log-uniform in `ratio`, the place uniform.
    torchvision draws up to ten times until the box fits; here one draw is clipped to the image,
    and box corners are not rounded to pixels.

    Args:
        key: a PRNG key.
        count: number of boxes.
        size: height and width of the image, in pixels.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.

    Returns:
        float32 [count, 4]: top, left, height, width, in pixels.
    """
    height, width = size
    # One draw for all four, because every call of the generator adds to the compile time.
    area, shape, top, left = jax.random.uniform(key, (4, count))
    area = height * width * (scale[0] + area * (scale[1] - scale[0]))
    bounds = [math.log(bound) for bound in ratio]
    shape = jnp.exp(bounds[0] + shape * (bounds[1] - bounds[0]))
    box_height = jnp.minimum(jnp.sqrt(area / shape), float(height))
    box_width = jnp.minimum(jnp.sqrt(area * shape), float(width))
    top = top * (height - box_height)
    left = left * (width - box_width)
    return jnp.stack([top, left, box_height, box_width], axis=1)


def crop(images: Array, boxes: Array) -> Array:
    """Crops one box per image and resizes it to the image's size by bilinear interpolation.

    Output pixel i of n is sampled at start + (i + 1/2) extent / n - 1/2, with pixel centres at the
    integers; outside the image the border pixel is repeated. The result equals Pillow's
    `resize(size, BILINEAR, box=...)` for boxes inside the image. It is computed as two products
    with banded matrices, which suit matrix units and on CPU are faster than `scale_and_translate`.

    Args:
        images: float32 [n, h, w, c] in [0, 1].
        boxes: float32 [n, 4]: top, left, height, width, in pixels.

    Returns:
        float32 [n, h, w, c] in [0, 1].

    Source: torchvision's RandomResizedCrop, which rounds the box to pixels.
    """
    top, left, height, width = (boxes[:, part, None, None] for part in range(4))
    rows = _interpolation(top, height, images.shape[1])
    columns = _interpolation(left, width, images.shape[2])
    # The default precision of matrix units, bfloat16, would lose the last bits of the image.
    highest = jax.lax.Precision.HIGHEST
    resized = jnp.einsum("nyh,nhwc->nywc", rows, images, precision=highest)
    resized = jnp.einsum("nxw,nywc->nyxc", columns, resized, precision=highest)
    return jnp.clip(resized, 0.0, 1.0)


def _interpolation(start: Array, extent: Array, size: int) -> Array:
    """Returns bilinear weights of boxes, [n, size out, size in]; start and extent: [n, 1, 1]."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) / np.float32(size)
    source = jnp.clip(start + extent * centres[None, :, None] - 0.5, 0.0, size - 1.0)
    pixels = np.arange(size, dtype=np.float32)[None, None, :]
    return jnp.maximum(0.0, 1.0 - jnp.abs(source - pixels))


def _to_unit(images: Array, rank: int | None = 4) -> Array:
    """Returns images as float32 in [0, 1]."""
    images = jnp.asarray(images)
    if rank is not None and images.ndim != rank:
        raise ValueError(f"images: expected [n, h, w, c], got shape {images.shape}")
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images: expected uint8 or floating, got {images.dtype}")
    return images.astype(jnp.float32)


def _statistics(
    images: Array, mean: Sequence[float], std: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std in a shape that broadcasts against images [..., c]."""
    shape = jnp.shape(images)
    for name, values in (("mean", mean), ("std", std)):
        if np.shape(values) != shape[-1:]:
            raise ValueError(
                f"{name}: expected one number per channel of images {shape}, got {values}"
            )
    if not all(value > 0 for value in std):
        raise ValueError(f"std: expected positive numbers, got {tuple(std)}")
    lead = (1,) * (len(shape) - 1) + (-1,)
    return np.array(mean, np.float32).reshape(lead), np.array(std, np.float32).reshape(lead)


def _interval(name: str, values: Sequence[float], high: float = math.inf) -> tuple[float, float]:
    values = tuple(values)
    if len(values) != 2 or not 0 < values[0] <= values[1] <= high:
        raise ValueError(f"{name}: expected 0 < low <= high <= {high}, got {values}")
    return values


def _strengths(jitter: Sequence[float], channels: int) -> tuple[float, ...]:
    """Returns the four strengths; saturation and hue are 0 for images of one channel."""
    jitter = tuple(jitter)
    if len(jitter) != 4 or not all(strength >= 0 for strength in jitter) or jitter[3] > 0.5:
        raise ValueError(
            "jitter: expected four strengths >= 0 (brightness, contrast, saturation, hue), hue at "
            f"most 0.5, got {jitter}"
        )
    return (*jitter[:2], 0.0, 0.0) if channels == 1 else jitter
