"""A plain multilayer perceptron over the pixels of an image."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Array = jax.Array

_HE_NORMAL = nn.initializers.he_normal()


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last layer is linear.

    Attributes:
        widths: size of each layer's output; the last is the size of the embedding.
        dtype: dtype of the computation; parameters are float32.
    """

    widths: Sequence[int] = (512, 256, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Returns embeddings of images.

        Args:
            images: floating [n, ...], normalized; flattened to [n, pixels].
            train: unused; the layers behave alike in training and evaluation.

        Returns:
            float32 [n, widths[-1]].

        Raises:
            ValueError: widths is empty.
        """
        del train
        if not self.widths:
            raise ValueError("widths: expected at least one layer, got ()")
        hidden = images.reshape(images.shape[0], -1).astype(self.dtype)
        return layers(hidden, self.widths, dtype=self.dtype).astype(jnp.float32)


def layers(
    hidden: Array,
    widths: Sequence[int],
    *,
    dtype: DTypeLike,
    name: str = "layer",
    kernel_init: nn.initializers.Initializer = _HE_NORMAL,
) -> Array:
    """Applies linear layers NAME_0, NAME_1, ... with ReLU between: [n, d] to [n, widths[-1]]."""
    for index, width in enumerate(widths):
        hidden = nn.Dense(width, dtype=dtype, kernel_init=kernel_init, name=f"{name}_{index}")(
            nn.relu(hidden) if index else hidden
        )
    return hidden
