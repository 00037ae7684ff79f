"""Residual networks with a stem for small or for ImageNet-sized images."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thanos_jax.checks import check_option

Array = jax.Array

# torchvision's initialization of convolutions: normal, variance 2 / fan_out.
_INITIALIZER = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Parameters of a block's shortcut and of its normalization.
SHORTCUT = ("shortcut", "shortcut_norm")


class ResNet(nn.Module):
    """Residual network with global average pooling at the end.

    Attributes:
        stage_sizes: number of blocks of each stage; each stage after the first halves height and
            width.
        bottleneck: True: blocks of 1x1, 3x3 and 1x1 convolutions (ResNet50); False: blocks of two
            3x3 convolutions (ResNet18).
        width: channels of the first stage, doubled at each further stage. The number of features is
            width * 2 ** (stages - 1), times 4 with bottleneck.
        stem: "small": one 3x3 convolution at full size, for images of about 32 pixels;
            "imagenet": 7x7 with stride 2 and 3x3 max pooling with stride 2.
        dtype: dtype of the computation; parameters and batch statistics are float32.

    Source: He et al., arXiv 1512.03385, section 3.3; small stem: SimCLR, arXiv 2002.05709, B.9.
    The stride of a bottleneck block is in its 3x3 convolution, as in torchvision.
    """

    stage_sizes: Sequence[int]
    bottleneck: bool
    width: int = 64
    stem: str = "small"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Returns embeddings of images.

        Args:
            images: floating [n, h, w, c], normalized.
            train: whether BatchNorm normalizes by the batch and updates the running averages in the
                collection "batch_stats"; otherwise it uses the running averages.

        Returns:
            float32 [n, features].

        Raises:
            ValueError: the stem is unknown.
        """
        check_option("stem", self.stem, ("small", "imagenet"))
        maps = images.astype(self.dtype)
        small = self.stem == "small"
        kernel, stride = (3, 1) if small else (7, 2)
        names = ("stem", "stem_norm")
        maps = nn.relu(
            convolve(maps, self.width, kernel, stride, train=train, dtype=self.dtype, names=names)
        )
        if not small:
            maps = nn.max_pool(maps, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                maps = ResidualBlock(
                    channels=self.width * 2**stage,
                    bottleneck=self.bottleneck,
                    stride=2 if stage > 0 and index == 0 else 1,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{index}",
                )(maps, train=train)
        return maps.astype(jnp.float32).mean(axis=(1, 2))


class ResidualBlock(nn.Module):
    """Residual block: relu(f(x) + shortcut(x)).

    f has two 3x3 convolutions; with bottleneck it has 1x1, 3x3 and 1x1 convolutions, the last with
    4 times the channels. The shortcut is the identity, or a 1x1 convolution if shapes differ.

    Attributes:
        channels: output channels of the convolutions, except the last one of a bottleneck.
        bottleneck: whether the block has three convolutions instead of two.
        stride: stride of the first 3x3 convolution and of the shortcut.
        dtype: dtype of the computation; parameters and batch statistics are float32.
    """

    channels: int
    bottleneck: bool
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Array, *, train: bool) -> Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, channels or 4 * channels]."""
        channels, stride = self.channels, self.stride
        layers = [(channels, 3, stride), (channels, 3, 1)]
        if self.bottleneck:
            layers = [(channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)]
        apply = functools.partial(convolve, train=train, dtype=self.dtype)
        out = maps
        for index, layer in enumerate(layers):
            out = nn.relu(out) if index else out
            out = apply(out, *layer, names=(f"conv_{index}", f"norm_{index}"))
        if maps.shape != out.shape:
            maps = apply(maps, out.shape[-1], 1, stride, names=SHORTCUT)
        return nn.relu(out + maps)


def resnet18(*, width: int = 64, stem: str = "small", dtype: DTypeLike = jnp.float32) -> ResNet:
    """Returns a ResNet18: 8 * width features, 11.17 million parameters at width 64."""
    return ResNet((2, 2, 2, 2), bottleneck=False, width=width, stem=stem, dtype=dtype)


def resnet50(*, width: int = 64, stem: str = "imagenet", dtype: DTypeLike = jnp.float32) -> ResNet:
    """Returns a ResNet50: 32 * width features, 23.5 million parameters at width 64."""
    return ResNet((3, 4, 6, 3), bottleneck=True, width=width, stem=stem, dtype=dtype)


def convolve(
    maps: Array,
    channels: int,
    kernel: int,
    stride: int,
    *,
    train: bool,
    dtype: DTypeLike,
    names: tuple[str, str],
) -> Array:
    """Applies a convolution without bias, equally padded on all sides, and batch normalization.

    "SAME" would pad one side only if the stride is 2, which shifts the image. Under `jit` the
    statistics of a sharded batch are computed over the global batch.

    Args:
        maps: feature maps [n, h, w, c].
        channels: number of output channels.
        kernel: side of the kernel, odd.
        stride: stride in both directions.
        train: whether to normalize by the batch and update the running averages; otherwise the
            running averages are used.
        dtype: dtype of the computation; statistics are computed in float32.
        names: names of the parameters of the convolution and of the normalization.

    Returns:
        Feature maps [n, h / stride, w / stride, channels].
    """
    maps = nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((kernel // 2, kernel // 2),) * 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=_INITIALIZER,
        name=names[0],
    )(maps)
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=names[1]
    )(maps)
