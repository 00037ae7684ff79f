"""A small vision transformer, whose embedding is the output of the class token."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thanos_jax.checks import check_at_least

Array = jax.Array


class ViT(nn.Module):
    """Pre-norm vision transformer with a class token and learned position embeddings.

    Dropout is applied as in torchvision: after the position embeddings and after each linear layer
    of a block's two branches, but not to the attention weights. Stochastic depth drops a branch of
    block l of L for a whole image with probability `stochastic_depth` * l / L. Branches that are
    kept are scaled, so that the expectation is unchanged.

    Attributes:
        patch: side of the square patches, in pixels; a divisor of the image's height and width.
        width: size of a token, and of the embedding.
        depth: number of blocks.
        heads: attention heads; a divisor of width.
        mlp_width: hidden size of each block's MLP.
        dropout: probability of dropout in training; random numbers are from the rng "dropout".
        stochastic_depth: probability of dropping a branch of the last block; same rng.
        dtype: dtype of the computation; parameters are float32.

    Source: Dosovitskiy et al., arXiv 2010.11929; stochastic depth: Huang et al., arXiv 1603.09382;
    sizes: Thanos, arXiv 2204.07596.
    """

    patch: int = 4
    width: int = 256
    depth: int = 7
    heads: int = 8
    mlp_width: int = 512
    dropout: float = 0.05
    stochastic_depth: float = 0.05
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Returns embeddings of images.

        Args:
            images: floating [n, h, w, c], normalized.
            train: whether dropout and stochastic depth are on.

        Returns:
            float32 [n, width].

        Raises:
            ValueError: patch does not divide h and w, heads does not divide width, or depth < 1.
        """
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width={self.width}, got {self.heads}")
        check_at_least("depth", self.depth, 1)
        tokens = patches(images.astype(self.dtype), self.patch)
        tokens = _dense(self.width, self.dtype, "patch_embedding")(tokens)
        count, number, _ = tokens.shape
        class_token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (1, number + 1, self.width)
        )
        first = jnp.broadcast_to(class_token.astype(self.dtype), (count, 1, self.width))
        tokens = jnp.concatenate([first, tokens], axis=1) + positions.astype(self.dtype)
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        for index in range(self.depth):
            tokens = Block(
                heads=self.heads,
                mlp_width=self.mlp_width,
                dropout=self.dropout,
                drop_branch=self.stochastic_depth * (index + 1) / self.depth,
                class_token_only=index == self.depth - 1,
                dtype=self.dtype,
                name=f"block_{index}",
            )(tokens, train=train)
        # The embedding leaves in float32, so the last norm is taken in float32 too.
        return _norm(jnp.float32, "norm")(tokens[:, 0])


class Block(nn.Module):
    """One pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
        heads: number of attention heads.
        mlp_width: hidden size of the MLP.
        dropout: probability of dropout.
        drop_branch: probability of dropping a whole branch, per image.
        class_token_only: whether only the first token is returned. The other tokens of the last
            block are not used, so that their MLP need not be computed.
        dtype: dtype of the computation; parameters are float32.
    """

    heads: int
    mlp_width: int
    dropout: float = 0.0
    drop_branch: float = 0.0
    class_token_only: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool) -> Array:
        """Applies the block to tokens.

        Args:
            tokens: [n, t, width].
            train: whether dropout and stochastic depth are on.

        Returns:
            [n, t, width], or [n, 1, width] with class_token_only.
        """
        count, number, width = tokens.shape
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        # One random number per image: the mask is broadcast over tokens and features.
        branch = nn.Dropout(self.drop_branch, broadcast_dims=(1, 2), deterministic=not train)

        mixed = _dense(3 * width, self.dtype, "query_key_value")(
            _norm(self.dtype, "attention_norm")(tokens)
        )
        query, key, value = jnp.split(
            mixed.reshape(count, number, 3 * self.heads, width // self.heads), 3, axis=2
        )
        if self.class_token_only:
            query, tokens = query[:, :1], tokens[:, :1]
        attended = jax.nn.dot_product_attention(query, key, value)
        attended = attended.reshape(count, -1, width)
        attended = _dense(width, self.dtype, "attention_out")(attended)
        tokens = tokens + branch(dropout(attended))

        hidden = _norm(self.dtype, "mlp_norm")(tokens)
        hidden = _dense(self.mlp_width, self.dtype, "mlp_in")(hidden)
        hidden = dropout(nn.gelu(hidden, approximate=False))
        hidden = _dense(width, self.dtype, "mlp_out")(hidden)
        return tokens + branch(dropout(hidden))


def patches(images: Array, size: int) -> Array:
    """Returns non-overlapping square patches of images, flattened, in reading order.

    Args:
        images: [n, h, w, c].
        size: side of a patch, in pixels.

    Returns:
        [n, (h / size) * (w / size), size * size * c].

    Raises:
        ValueError: size does not divide h and w.
    """
    count, height, width, channels = images.shape
    if size < 1 or height % size or width % size:
        raise ValueError(
            "patch: expected a divisor of the image's height and width, got "
            f"{size} and images of {height} x {width}"
        )
    rows, columns = height // size, width // size
    split = images.reshape(count, rows, size, columns, size, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows * columns, size * size * channels)


def _dense(features: int, dtype: DTypeLike, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)


def _norm(dtype: DTypeLike, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)
