"""How much an encoder or decoder stretches: local Lipschitz constants by power iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import pdist

from thanos_jax.checks import check_at_least

Apply = Callable[[jax.Array], jax.Array]


def local_lipschitz(
    apply: Apply, inputs: jax.Array, key: jax.Array, *, iterations: int = 20
) -> jax.Array:
    """Estimates the local Lipschitz constant of a function at each of its inputs.

    The constant is the largest singular value of the Jacobian J of output row i with respect to
    input row i, both flattened. It is found by power iteration on J'J from a random vector. Each
    iteration computes one Jacobian-vector and one vector-Jacobian product of the whole batch; J is
    never formed.

    An estimate never exceeds the singular value (up to rounding), and rises with the iterations.
    Its error shrinks like (second / first singular value)^(4 iterations).

    Args:
      apply: [n, ...] -> [n, ...], a pure function. Row i of its output depends on row i of its
        input only, as in networks with BatchNorm's stored statistics and without dropout.
      inputs: floating point [n, ...].
      key: draws the first vectors.
      iterations: at least 1.

    Returns:
      [n], of the output's dtype.

    Raises:
      TypeError: inputs or outputs are not floating point.
      ValueError: no iterations, inputs without rows, or outputs not of n rows.
    """
    check_at_least("iterations", iterations, 1)
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f"inputs: expected floating point [n, ...], got dtype {inputs.dtype}")
    if inputs.ndim < 2 or 0 in inputs.shape:
        raise ValueError(f"inputs: expected [n, ...] with n >= 1, got shape {inputs.shape}")
    outputs = jax.eval_shape(apply, inputs)
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise TypeError(f"apply: expected floating point outputs, got dtype {outputs.dtype}")
    if outputs.shape[:1] != inputs.shape[:1]:
        raise ValueError(
            f"apply: expected outputs [{inputs.shape[0]}, ...], a row for each input, got shape "
            f"{outputs.shape}"
        )

    # Linearized once: an iteration does not evaluate the function again.
    _, forward = jax.linearize(apply, inputs)
    backward = jax.linear_transpose(forward, inputs)

    def iterate(_: Any, vectors: jax.Array) -> jax.Array:
        # Units on both sides: the square of a large constant may overflow.
        (pulled,) = backward(_unit(forward(vectors)))
        return _unit(pulled)

    first = _unit(jax.random.normal(key, inputs.shape, inputs.dtype))
    return _lengths(forward(jax.lax.fori_loop(0, iterations, iterate, first)))


def lipschitz(
    apply: Apply,
    inputs: Any,
    key: jax.Array,
    *,
    iterations: int = 20,
    batch_size: int = 64,
) -> dict[str, float]:
    """Summarizes `local_lipschitz` over many inputs, a batch at a time.

    Args:
      apply: as `local_lipschitz`.
      inputs: floating point [n, ...], n at least 1.
      key: draws the first vectors.
      iterations: at least 1.
      batch_size: inputs at once, at least 1. An input takes about the memory that it takes in
        training.

    Returns:
      "lipschitz_median" and "lipschitz_max" over the inputs; the maximum is a lower bound of the
      function's Lipschitz constant.

    Raises:
      TypeError, ValueError: as `local_lipschitz`; batch_size below 1.
    """
    check_at_least("batch_size", batch_size, 1)
    inputs = jnp.asarray(inputs)
    compiled = jax.jit(lambda rows, key: local_lipschitz(apply, rows, key, iterations=iterations))
    if not inputs.ndim or not len(inputs):
        raise ValueError(f"inputs: expected [n, ...] with n >= 1, got shape {inputs.shape}")
    size = min(batch_size, len(inputs))
    found = []
    for start in range(0, len(inputs), size):
        # The last batch reaches back, so that one program serves all.
        begin = min(start, len(inputs) - size)
        batch = compiled(inputs[begin : begin + size], jax.random.fold_in(key, start))
        found.append(np.asarray(batch, np.float64)[start - begin :])
    values = np.concatenate(found)
    return {
        "lipschitz_median": float(np.median(values)),
        "lipschitz_max": float(np.max(values)),
    }


def pair_lipschitz(
    inputs: Any, outputs: Any, *, samples: int = 1024, seed: int = 0
) -> dict[str, float]:
    """Measures |f(x) - f(x')| / |x - x'| over pairs of given inputs.

    It needs no derivative, and compares only the given inputs, not directions in which no input
    lies. The maximum is a lower bound of the Lipschitz constant, tight only for linear maps.

    Args:
      inputs: floating point [n, ...].
      outputs: floating point [n, ...], f of the inputs.
      samples: at most this many inputs are used, drawn at random; at least 2. All their pairs are
        used, except pairs of equal inputs.
      seed: of the draw.

    Returns:
      "pair_lipschitz_median" and "pair_lipschitz_max".

    Raises:
      ValueError: fewer than two inputs or samples, unequal numbers, or inputs that are all equal.
    """
    inputs, outputs = np.asarray(inputs), np.asarray(outputs)
    check_at_least("samples", samples, 2)
    if inputs.ndim < 2 or outputs.ndim < 2 or len(inputs) != len(outputs) or len(inputs) < 2:
        raise ValueError(
            "inputs, outputs: expected [n, ...] both, with n >= 2, got shapes "
            f"{inputs.shape} and {outputs.shape}"
        )
    chosen = np.random.default_rng(seed).permutation(len(inputs))[:samples]
    before, after = (
        pdist(rows[chosen].reshape(len(chosen), -1).astype(np.float64))
        for rows in (inputs, outputs)
    )
    apart = before > 0
    if not apart.any():
        raise ValueError("inputs: expected at least two different ones, got all equal")
    ratios = after[apart] / before[apart]
    return {
        "pair_lipschitz_median": float(np.median(ratios)),
        "pair_lipschitz_max": float(np.max(ratios)),
    }


def encoder_and_decoder(
    model: nn.Module, variables: Mapping[str, Any]
) -> tuple[Apply, Apply | None]:
    """Returns a trained model's encoder and decoder as functions to differentiate.

    The encoder does not return the model's own "embedding", because the arrangement "separate"
    stops its gradient.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      variables: {"params": ..., other collections}.

    Returns:
      (normalized images [n, h, w, c]) -> embedding float32 [n, D], of all encoders, side by side;
      (embedding of the last encoder [n, d]) -> images [n, h, w, c], or None without decoder.
    """
    module: Any = model
    layer = "embedding" if module.embedding_dim else "encoders"
    names = [f"{layer}_{index}" for index in range(len(module.encoders))]

    def encode(images: jax.Array) -> jax.Array:
        _, state = module.apply(
            variables,
            images,
            train=False,
            mutable=["intermediates"],
            capture_intermediates=lambda layer, method: layer.name in names,
        )
        parts = [state["intermediates"][name]["__call__"][0] for name in names]
        return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=-1)

    def decode(embeddings: jax.Array) -> jax.Array:
        return module.bind(variables).decoder(embeddings, train=False)

    return encode, decode if module.decoder is not None else None


def _split(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns rows divided by their largest magnitude, the lengths of these, and the magnitudes.

    The first two neither overflow nor underflow; both are 0 for a zero row.
    """
    axes = tuple(range(1, rows.ndim))
    largest = jnp.max(jnp.abs(rows), axis=axes, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1)
    return scaled, jnp.sqrt(jnp.sum(scaled**2, axis=axes, keepdims=True)), largest


def _lengths(rows: jax.Array) -> jax.Array:
    _, lengths, largest = _split(rows)
    return (lengths * largest).reshape(len(rows))


def _unit(rows: jax.Array) -> jax.Array:
    """Divides each row by its Euclidean length; a zero row stays zero."""
    scaled, lengths, _ = _split(rows)
    return scaled / jnp.where(lengths > 0, lengths, 1)
