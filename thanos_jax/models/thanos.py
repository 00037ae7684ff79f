"""The model of a run: one or two encoders, coarse classifiers, and a decoder."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thanos_jax.checks import check_at_least, check_option
from thanos_jax.models.convnet import ConvNet, ConvNetDecoder
from thanos_jax.models.decoder import ConvDecoder, MLPDecoder
from thanos_jax.models.mlp import MLP, layers
from thanos_jax.models.resnet import resnet18, resnet50
from thanos_jax.models.vit import ViT

Array = jax.Array

# Arrangement -> number of encoders.
ARRANGEMENTS = {"shared": 1, "joint": 2, "separate": 2}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Thanos(nn.Module):
    """Encoders for the contrastive loss and the autoencoder, with linear coarse classifiers.

    Arrangements:
        "shared": one encoder serves both losses.
        "joint": the contrastive loss trains the first encoder and the autoencoder the second; one
            classifier on their concatenated embeddings trains both.
        "separate": as "joint", but each encoder has its own classifier, so that the losses of one
            have no gradient in the other. One step thus trains both independently.

    Attributes:
        encoders: modules called as encoder(images, train=...) -> [n, d]; one for "shared", two
            otherwise.
        decoder: module called as decoder(embedding, train=...) -> images, or None.
        num_classes: number of coarse classes.
        arrangement: "shared", "joint" or "separate".
        embedding_dim: width of each encoder's embedding, set by a linear layer after the encoder;
            0: the encoder's own width, without that layer.
        projection: layer widths of a projection head, with ReLU between them, between the embedding
            and the contrastive loss; (): no head.
        dtype: dtype in which these layers compute; parameters are float32, and the
            classifiers compute in float32.

    Source: Chen, Fu et al., Perfectly Balanced, arXiv 2204.07596; its official code has "shared"
    and "joint". The projection head is from Khosla et al., arXiv 2004.11362.
    """

    encoders: Sequence[nn.Module]
    decoder: nn.Module | None
    num_classes: int
    arrangement: str
    embedding_dim: int = 0
    projection: Sequence[int] = ()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> dict[str, Any]:
        """Returns embeddings, coarse logits and reconstructions of images.

        Args:
            images: floating [n, h, w, c], normalized.
            train: whether dropout and stochastic depth are on, and BatchNorm normalizes by the
                batch.

        Returns:
            A dictionary of float32 arrays:
            "embedding" [n, D]: the concatenated embeddings of all encoders, for downstream tasks;
                for "separate" without gradient, because no loss may use it.
            "contrastive" [n, d]: input of the contrastive loss: the first encoder's embedding, or
                the output of the projection head.
            "logits": a tuple of [n, num_classes]: for "shared" and "joint" the logits from
                "embedding"; for "separate" the logits from each encoder's embedding.
            "reconstruction" [n, h, w, c]: from the last encoder's embedding; absent without a
                decoder.

        Raises:
            ValueError: the arrangement is unknown, or the number of encoders does not fit it.
        """
        _check(self.arrangement, len(self.encoders), self.num_classes, self.embedding_dim)
        parts = []
        for index, encoder in enumerate(self.encoders):
            part = encoder(images, train=train)
            if self.embedding_dim:
                part = nn.Dense(self.embedding_dim, dtype=self.dtype, name=f"embedding_{index}")(
                    part
                )
            parts.append(part.astype(jnp.float32))
        embedding = jnp.concatenate(parts, axis=-1)
        separate = self.arrangement == "separate"
        logits = tuple(
            nn.Dense(self.num_classes, name=f"classifier_{index}")(features)
            for index, features in enumerate(parts if separate else [embedding])
        )
        outputs = {
            "embedding": jax.lax.stop_gradient(embedding) if separate else embedding,
            "contrastive": layers(
                parts[0],
                self.projection,
                dtype=self.dtype,
                name="projection",
                kernel_init=nn.initializers.lecun_normal(),  # as in all layers of this module
            ).astype(jnp.float32),
            "logits": logits,
        }
        if self.decoder is not None:
            outputs["reconstruction"] = self.decoder(parts[-1], train=train)
        return outputs


def build(
    config: Any, *, image_shape: Sequence[int], num_classes: int, reconstruct: bool
) -> Thanos:
    """Builds the model that a config describes.

    Args:
        config: config.model, with the keys encoder, arrangement, embedding_dim, decoder ("conv",
            "mlp", "convnet", or "auto": the decoder with the encoder's name, or conv), projection,
            dtype ("float32", "bfloat16"), and the sections vit, resnet, mlp, convnet.
        image_shape: height, width, channels.
        num_classes: number of coarse classes, at least 1.
        reconstruct: whether the model has a decoder.

    Returns:
        The module, without parameters.

    Raises:
        ValueError: encoder, arrangement, decoder or dtype is unknown; image_shape is not of length
            3; num_classes < 1; embedding_dim < 0.
    """
    encoder = _choose("encoder", config.encoder, ENCODERS)
    dtype = _choose("dtype", config.dtype, DTYPES)
    count = _choose("arrangement", config.arrangement, ARRANGEMENTS)
    _check(config.arrangement, count, num_classes, config.embedding_dim)
    if len(image_shape) != 3:
        raise ValueError(f"image_shape: expected (height, width, channels), got {image_shape}")
    name = config.decoder
    if name == "auto":
        name = config.encoder if config.encoder in DECODERS else "conv"
    make_decoder = _choose("decoder", name, DECODERS)
    return Thanos(
        encoders=tuple(encoder(config, dtype) for _ in range(count)),
        decoder=make_decoder(config, tuple(image_shape), dtype) if reconstruct else None,
        num_classes=num_classes,
        arrangement=config.arrangement,
        embedding_dim=config.embedding_dim,
        projection=tuple(config.projection),
        dtype=dtype,
    )


# Name in the config -> (config.model, dtype) -> encoder.
ENCODERS: dict[str, Callable[[Any, DTypeLike], nn.Module]] = {
    "vit": lambda config, dtype: ViT(**config.vit, dtype=dtype),
    "resnet18": lambda config, dtype: resnet18(**config.resnet, dtype=dtype),
    "resnet50": lambda config, dtype: resnet50(**config.resnet, dtype=dtype),
    "mlp": lambda config, dtype: MLP(tuple(config.mlp.widths), dtype=dtype),
    "convnet": lambda config, dtype: ConvNet(**config.convnet, dtype=dtype),
}
# Name in the config -> (config.model, image_shape, dtype) -> decoder. mlp and convnet mirror the
# encoder of the same name, without its last width, which is the embedding.
DECODERS: dict[str, Callable[[Any, tuple[int, ...], DTypeLike], nn.Module]] = {
    "conv": lambda config, shape, dtype: ConvDecoder(shape, dtype=dtype),
    "mlp": lambda config, shape, dtype: MLPDecoder(
        shape, tuple(config.mlp.widths[-2::-1]), dtype=dtype
    ),
    "convnet": lambda config, shape, dtype: ConvNetDecoder(
        shape,
        config.convnet.channels,
        config.convnet.kernels,
        config.convnet.strides,
        tuple(config.convnet.widths[-2::-1]),
        dtype=dtype,
    ),
}


def _choose(name: str, value: str, options: dict[str, Any]) -> Any:
    check_option(name, value, tuple(options))
    return options[value]


def _check(arrangement: str, encoders: int, num_classes: int, embedding_dim: int) -> None:
    wanted = _choose("arrangement", arrangement, ARRANGEMENTS)
    if encoders != wanted:
        raise ValueError(
            f"encoders: expected {wanted} for arrangement {arrangement!r}, got {encoders}"
        )
    check_at_least("num_classes", num_classes, 1)
    check_at_least("embedding_dim", embedding_dim, 0)


def predict_coarse(logits: tuple[jax.Array, ...]) -> jax.Array:
    """Returns the class with the largest probability, averaged over the classifiers.

    Args:
      logits: for each classifier, float [rows, classes].

    Returns:
      int32 [rows].
    """
    return jnp.argmax(sum(jax.nn.softmax(x) for x in logits), axis=-1).astype(jnp.int32)
