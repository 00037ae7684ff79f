"""Decoders: modules that reconstruct normalized images from embeddings."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thanos_jax.models.mlp import layers
from thanos_jax.models.resnet import SHORTCUT, convolve

Array = jax.Array

# A ResNet with the ImageNet stem halves its input five times; its mirror doubles as often at most.
_MOST_DOUBLINGS = 5


class ConvDecoder(nn.Module):
    """The mirror of ResNet18: a small feature map, enlarged in stages to the size of the image.

    A linear layer computes a map of 2 * channels[0] channels. It is 4 x 4 for images of up to 128
    pixels and 1 / 32 of the image for larger ones. Every stage but the last doubles height and
    width while doublings are needed. Further doublings come before the output convolution, where
    they mirror the stem of ResNet. Pixels beyond image_shape are cropped at the borders.

    Attributes:
        image_shape: height, width, channels of the reconstruction.
        channels: number of output channels of each stage.
        dtype: dtype of the computation; parameters and batch statistics are float32.

    Source: Thanos, arXiv 2204.07596, decoder for 32 x 32 images (4 x 4 x 512; 256, 128, 64, 64).
    """

    image_shape: Sequence[int]
    channels: Sequence[int] = (256, 128, 64, 64)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, embeddings: Array, *, train: bool) -> Array:
        """Returns reconstructions of images from embeddings.

        Args:
            embeddings: floating [n, d].
            train: whether BatchNorm normalizes by the batch, as in `ResNet`.

        Returns:
            float32 [n, h, w, c], unbounded, on the scale of normalized images.
        """
        height, width, channels = self.image_shape
        doublings = number_of_doublings(height, width)
        rows, columns = -(-height // 2**doublings), -(-width // 2**doublings)
        first = 2 * self.channels[0]
        maps = nn.Dense(rows * columns * first, dtype=self.dtype, name="linear")(
            embeddings.astype(self.dtype)
        )
        maps = maps.reshape(-1, rows, columns, first)
        for stage, width_out in enumerate(self.channels):
            factor = 2 if doublings > 0 and stage < len(self.channels) - 1 else 1
            doublings -= factor - 1
            # ResNet18 has two blocks per stage; in the mirror, the second one changes the shape.
            for index, shape in enumerate([(maps.shape[-1], 1), (width_out, factor)]):
                block = UpBlock(*shape, dtype=self.dtype, name=f"stage_{stage}_block_{index}")
                maps = block(maps, train=train)
        for index in range(doublings):
            if index > 0:
                names = (f"stem_{index}", f"stem_norm_{index}")
                options: Any = {"train": train, "dtype": self.dtype, "names": names}
                maps = nn.relu(convolve(maps, self.channels[-1], 3, 1, **options))
            maps = enlarge(maps, 2)
        # Cropped after the convolution: the pixels at the border then have real neighbours.
        images = nn.Conv(channels, (3, 3), dtype=self.dtype, name="output")(maps)
        top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        return images[:, top : top + height, left : left + width].astype(jnp.float32)


class UpBlock(nn.Module):
    """The mirror of ResNet's basic block: a residual block that may enlarge the map.

    Attributes:
        channels: number of output channels.
        factor: factor by which height and width grow; pixels are repeated before the second
            convolution.
        dtype: dtype of the computation; parameters and batch statistics are float32.
    """

    channels: int
    factor: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Array, *, train: bool) -> Array:
        """Maps [n, h, w, c] to [n, factor * h, factor * w, channels]."""
        apply = functools.partial(convolve, train=train, dtype=self.dtype)
        out = apply(maps, maps.shape[-1], 3, 1, names=("conv_0", "norm_0"))
        out = enlarge(nn.relu(out), self.factor)
        out = apply(out, self.channels, 3, 1, names=("conv_1", "norm_1"))
        if maps.shape != out.shape:
            # A 1x1 convolution commutes with repeating pixels, and is cheaper before it.
            maps = apply(maps, self.channels, 1, 1, names=SHORTCUT)
            maps = enlarge(maps, self.factor)
        return nn.relu(out + maps)


class MLPDecoder(nn.Module):
    """Linear layers with ReLU between them; the output size is the number of values of the image.

    Attributes:
        image_shape: height, width, channels of the reconstruction.
        widths: sizes of the hidden layers.
        dtype: dtype of the computation; parameters are float32.
    """

    image_shape: Sequence[int]
    widths: Sequence[int] = (256, 512)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, embeddings: Array, *, train: bool) -> Array:
        """Returns reconstructions of images from embeddings.

        Args:
            embeddings: floating [n, d].
            train: unused; the layers behave alike in training and evaluation.

        Returns:
            float32 [n, h, w, c], unbounded, on the scale of normalized images.
        """
        del train
        hidden = layers(embeddings.astype(self.dtype), self.widths, dtype=self.dtype)
        hidden = nn.relu(hidden) if self.widths else hidden
        values = nn.Dense(math.prod(self.image_shape), dtype=self.dtype, name="output")(hidden)
        return values.reshape(-1, *self.image_shape).astype(jnp.float32)


def enlarge(maps: Array, factor: int) -> Array:
    """Repeats every pixel factor x factor times: [n, h, w, c] to [n, factor h, factor w, c]."""
    if factor == 1:
        return maps
    count, height, width, channels = maps.shape
    shape = (count, height, factor, width, factor, channels)
    repeated = jnp.broadcast_to(maps[:, :, None, :, None, :], shape)
    return repeated.reshape(count, height * factor, width * factor, channels)


def number_of_doublings(height: int, width: int) -> int:
    """Returns how often the decoder doubles its map for an image of height x width pixels.

    The number is min(5, ceil(log2(max(height, width) / 4))), at least 0: from 4 x 4 to the image.
    """
    return min(_MOST_DOUBLINGS, max(0, math.ceil(math.log2(max(height, width) / 4))))
