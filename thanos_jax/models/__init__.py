"""Encoders, decoders, and the model that joins them (Flax Linen)."""

from thanos_jax.models.convnet import ConvNet, ConvNetDecoder
from thanos_jax.models.decoder import ConvDecoder, MLPDecoder
from thanos_jax.models.mlp import MLP
from thanos_jax.models.resnet import ResNet, resnet18, resnet50
from thanos_jax.models.thanos import ARRANGEMENTS, ENCODERS, Thanos, build
from thanos_jax.models.vit import ViT

__all__ = [
    "ARRANGEMENTS",
    "ENCODERS",
    "MLP",
    "ConvDecoder",
    "ConvNet",
    "ConvNetDecoder",
    "MLPDecoder",
    "ResNet",
    "Thanos",
    "ViT",
    "build",
    "resnet18",
    "resnet50",
]
