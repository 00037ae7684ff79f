"""Supervised contrastive learning without class collapse, in JAX."""

__version__ = "0.1.0"
