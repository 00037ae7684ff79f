"""A small convolutional network that is fast on CPUs, and the decoder that mirrors it.

On CPUs XLA's convolutions are much slower than its matrix products. There a convolution is computed
as the product of the matrix of patches and the kernel; elsewhere XLA's convolution is used.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thanos_jax.models.mlp import layers

Array = jax.Array


class ConvNet(nn.Module):
    """Strided convolutions with ReLU, then linear layers over the whole feature map.

    Attributes:
        channels: number of output channels of each convolution.
        kernels: side of each convolution's kernel, in pixels.
        strides: stride of each convolution, in pixels.
        widths: sizes of the linear layers, with ReLU between them; the last is the size of the
            embedding. A single layer separates classes less well, because the map from the
            convolutions to the linear classifiers is then linear.
        dtype: dtype of the computation; parameters are float32.
    """

    channels: Sequence[int] = (32, 64)
    kernels: Sequence[int] = (5, 3)
    strides: Sequence[int] = (2, 2)
    widths: Sequence[int] = (256, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Returns embeddings of images.

        Args:
            images: floating [n, h, w, c], normalized.
            train: unused; the layers behave alike in training and evaluation.

        Returns:
            float32 [n, widths[-1]].

        Raises:
            ValueError: channels, kernels and strides differ in length, or one of them or widths is
                empty or has an element that is not positive.
        """
        del train
        _check(self.channels, self.kernels, self.strides, self.widths)
        if not self.widths:
            raise ValueError("widths: expected at least one layer, got ()")
        maps = images.astype(self.dtype)
        for index, channels in enumerate(self.channels):
            maps = Convolution(
                channels,
                self.kernels[index],
                self.strides[index],
                dtype=self.dtype,
                name=f"conv_{index}",
            )(maps)
            maps = nn.relu(maps)
        hidden = maps.reshape(maps.shape[0], -1)
        return layers(hidden, self.widths, dtype=self.dtype).astype(jnp.float32)


class ConvNetDecoder(nn.Module):
    """The mirror of `ConvNet`: linear layers, then transposed convolutions, with ReLU between.

    Attributes:
        image_shape: height, width, channels of the reconstruction.
        channels: as in the encoder.
        kernels: as in the encoder.
        strides: as in the encoder.
        widths: sizes of the hidden linear layers: the encoder's without the last, reversed.
        dtype: dtype of the computation; parameters are float32.
    """

    image_shape: Sequence[int]
    channels: Sequence[int] = (32, 64)
    kernels: Sequence[int] = (5, 3)
    strides: Sequence[int] = (2, 2)
    widths: Sequence[int] = (256,)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, embeddings: Array, *, train: bool) -> Array:
        """Returns reconstructions of images from embeddings.

        Args:
            embeddings: floating [n, d].
            train: unused; the layers behave alike in training and evaluation.

        Returns:
            float32 [n, h, w, c], unbounded, on the scale of normalized images.

        Raises:
            ValueError: as `ConvNet`; widths may be empty.
        """
        del train
        _check(self.channels, self.kernels, self.strides, self.widths)
        height, width, channels = self.image_shape
        sizes = [(height, width)]
        for stride in self.strides:
            sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
        rows, columns, last = *sizes[-1], self.channels[-1]
        widths = (*self.widths, rows * columns * last)
        hidden = layers(embeddings.astype(self.dtype), widths, dtype=self.dtype)
        maps = hidden.reshape(-1, rows, columns, last)
        outputs = (channels, *self.channels[:-1])
        for index in reversed(range(len(self.channels))):
            maps = TransposedConvolution(
                outputs[index],
                self.kernels[index],
                self.strides[index],
                sizes[index],
                dtype=self.dtype,
                name=f"conv_{index}",
            )(nn.relu(maps))
        return maps.astype(jnp.float32)


class Convolution(nn.Module):
    """A convolution with bias, padded as "SAME".

    Attributes:
        channels: number of output channels.
        kernel: side of the kernel, in pixels.
        stride: stride in both directions.
        dtype: dtype of the computation; parameters are float32.
    """

    channels: int
    kernel: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        """Maps [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), channels]."""
        shape = (self.kernel, self.kernel, maps.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        maps = convolve(maps, kernel.astype(self.dtype), self.stride)
        return maps + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class TransposedConvolution(nn.Module):
    """The transpose of `Convolution`, plus a bias.

    Attributes:
        channels: number of output channels.
        kernel: side of the kernel, in pixels.
        stride: factor by which height and width grow.
        size: height and width of the output; `Convolution` would map them to the input's.
        dtype: dtype of the computation; parameters are float32.
    """

    channels: int
    kernel: int
    stride: int
    size: Sequence[int]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        """Maps [n, rows, columns, c] to [n, *size, channels]."""
        shape = (self.kernel, self.kernel, self.channels, maps.shape[-1])
        # An output value sums (kernel / stride)^2 values of each input channel; He et al.'s
        # variance is 2 over the number of summed values.
        scale = 2.0 * min(1.0, self.stride / self.kernel) ** 2
        initializer = nn.initializers.variance_scaling(
            scale, "fan_out", "normal", in_axis=(0, 1, 2), out_axis=3
        )
        kernel = self.param("kernel", initializer, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        maps = convolve_transposed(maps, kernel.astype(self.dtype), self.stride, self.size)
        return maps + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def convolve(maps: Array, kernel: Array, stride: int) -> Array:
    """Convolves with "SAME" padding: by a product with patches on CPUs, by XLA elsewhere.

    Args:
        maps: floating [n, h, w, c].
        kernel: [k, k, c, channels], of the dtype of maps.
        stride: stride in both directions.

    Returns:
        [n, ceil(h / stride), ceil(w / stride), channels].
    """

    def product(maps: Array, kernel: Array) -> Array:
        return patches(maps, kernel.shape[0], stride) @ kernel.reshape(-1, kernel.shape[-1])

    def convolution(maps: Array, kernel: Array) -> Array:
        return _convolution(kernel, stride)(maps)

    return jax.lax.platform_dependent(maps, kernel, cpu=product, default=convolution)


def convolve_transposed(maps: Array, kernel: Array, stride: int, size: Sequence[int]) -> Array:
    """Applies the transpose of `convolve`, as a linear map of its input.

    Args:
        maps: floating [n, rows, columns, channels], as `convolve` returns.
        kernel: as in `convolve`, [k, k, c, channels].
        stride: as in `convolve`.
        size: height h and width w of the result.

    Returns:
        [n, h, w, c].
    """
    result = jax.ShapeDtypeStruct((maps.shape[0], *size, kernel.shape[2]), maps.dtype)

    def product(maps: Array, kernel: Array) -> Array:
        values = maps @ kernel.reshape(-1, kernel.shape[-1]).T
        gather = jax.linear_transpose(lambda x: patches(x, kernel.shape[0], stride), result)
        return gather(values)[0]

    def convolution(maps: Array, kernel: Array) -> Array:
        return jax.linear_transpose(_convolution(kernel, stride), result)(maps)[0]

    return jax.lax.platform_dependent(maps, kernel, cpu=product, default=convolution)


def patches(maps: Array, size: int, stride: int) -> Array:
    """Returns the patches under a convolution with "SAME" padding, pixels in reading order.

    The width is cut into blocks of `stride` pixels. The pixels of a block are contiguous in memory,
    with their channels, so that they are copied together, and added together in the gradient.

    Args:
        maps: [n, h, w, c].
        size: side of a patch.
        stride: step between patches, in both directions.

    Returns:
        [n, ceil(h / stride), ceil(w / stride), size * size * c].
    """
    count, *sides, channels = maps.shape
    blocks = -(-size // stride)
    rows, columns = (-(-side // stride) for side in sides)
    padding = [(0, 0, 0)]
    for side, places in zip(sides, (rows, columns), strict=True):
        before = max((places - 1) * stride + size - side, 0) // 2
        padding.append((before, (places - 1 + blocks) * stride - side - before, 0))
    maps = jax.lax.pad(maps, jnp.zeros((), maps.dtype), [*padding, (0, 0, 0)])
    maps = maps.reshape(count, rows - 1 + blocks, stride, columns - 1 + blocks, stride * channels)
    parts = []
    for row in range(size):
        whole, rest = divmod(row, stride)
        for block in range(blocks):
            pixels = min(stride, size - block * stride)
            lines = maps[:, whole : whole + rows, rest, block : block + columns]
            parts.append(lines[..., : pixels * channels])
    return jnp.concatenate(parts, axis=-1)


def _convolution(kernel: Array, stride: int) -> Callable[[Array], Array]:
    return lambda maps: jax.lax.conv_general_dilated(
        maps, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _check(
    channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int], widths: Sequence[int]
) -> None:
    given = {"channels": channels, "kernels": kernels, "strides": strides}
    for name, values in given.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name}: expected positive integers, one or more, got {values}")
        if len(values) != len(channels):
            raise ValueError(
                f"{name}: expected {len(channels)} numbers, one for each of channels = {channels}, "
                f"got {values}"
            )
    if min(widths, default=1) < 1:
        raise ValueError(f"widths: expected positive integers, got {widths}")
