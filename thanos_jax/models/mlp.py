"""A plain multilayer perceptron over the pixels of an image."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Array = jax.Array


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
        """Embeddings of images.

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
        for index, width in enumerate(self.widths):
            hidden = nn.Dense(
                width,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"layer_{index}",
            )(hidden if index == 0 else nn.relu(hidden))
        return hidden.astype(jnp.float32)
