"""Gradient caching: gradients of a loss over more rows than fit in memory at once.

A contrastive loss compares every row of the batch with every other row, so that it is not a sum
over micro-batches. But it depends on each row only through its embedding. Hence there are three
stages (Gao et al. 2021):

  1. embed one chunk after the other, and keep the embeddings but no residuals;
  2. compute the loss of all embeddings, and its gradient with respect to each of them;
  3. embed each chunk again and propagate its part of that gradient back to the parameters.

The gradient is exact for the whole batch. It costs a second forward pass, and the memory of one
chunk and of all embeddings. This module depends on no model library and no mesh.

Source: Gao, Zhang, Han, Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup, RepL4NLP 2021, https://arxiv.org/abs/2101.06983
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any
# (params, chunk) -> (embeddings, own loss of the chunk, any further output).
Encode = Callable[[PyTree, PyTree], tuple[PyTree, jax.Array | float, PyTree]]
# Embeddings of all chunks -> (their loss, any further output).
Loss = Callable[[PyTree], tuple[jax.Array, PyTree]]


def split(batch: PyTree, size: int) -> PyTree:
    """Splits a batch into n = rows / size chunks: row i goes to chunk i % n, place i // n.

    If each device has consecutive rows and the number of devices divides `size`, every device has
    an equal part of every chunk, and no data are sent. Chunks of consecutive rows would be on one
    device each. The rows of a chunk do not depend on the number of devices.

    Args:
      batch: pytree of arrays [rows, ...].
      size: number of rows of a chunk; a divisor of the number of rows.

    Returns:
      The pytree of arrays [n, size, ...]; on several devices it is sharded along the second axis.

    Raises:
      ValueError: the arrays differ in the number of rows, or `size` does not divide it.
    """
    rows = _length(batch, "batch", "rows")
    if size < 1 or rows % size:
        raise ValueError(f"size: expected a divisor of the batch's {rows} rows, got {size}")
    return jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1), batch)


def merge(chunks: PyTree) -> PyTree:
    """Inverts `split`: arrays [n, size, ...] to [n * size, ...], rows in the batch's order."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), chunks)


def value_and_grad(
    encode: Encode, loss: Loss | None
) -> Callable[[PyTree, PyTree], tuple[tuple[jax.Array, tuple[PyTree, PyTree]], PyTree]]:
    """Returns a function for value and gradient of a loss, computed chunk by chunk.

    The value is loss(embeddings of all chunks) + mean over chunks of their own losses.

    `encode` runs twice on each chunk and must be deterministic: all its random numbers must come
    from keys in the chunk. Its outputs other than embeddings are taken from the second run; in the
    first run the compiler drops everything that the embeddings do not need. Without `loss` there is
    no first run, and this is gradient accumulation.

    The compiled program is the same for any number of chunks. Gradients are accumulated in float32
    or wider. A layer that mixes rows, such as BatchNorm, mixes the rows of one chunk. The gradient
    is exact for the function that encodes chunk by chunk.

    Inside `jax.pmap` and `jax.shard_map`, proceed as `thanos_jax.losses` describes: `loss` takes
    the axis name; own losses and the gradient are averaged over the axis by `lax.pmean`.

    Args:
      encode: (params, chunk) -> (embeddings, own, extra). Embeddings are a pytree of floating
        arrays; own is a scalar, the chunk's mean of losses of single rows, or 0.0; extra is any
        pytree.
      loss: (embeddings, each with a leading axis of chunks) -> (scalar, extra); None if only the
        chunks' own losses are minimized.

    Returns:
      A function (params, chunks) -> ((value, (extra, extras)), gradient). params is a pytree of
      floating arrays, chunks a pytree of arrays [n, ...] that is iterated along the first axis.
      extra is the extra of `loss`, or None; extras are the extras of `encode`, stacked to [n, ...].
      The gradient has the shapes and dtypes of params.

    Raises:
      ValueError: raised by that function, if arrays of chunks differ in length or own losses are
        not scalars.

    Example:
      >>> import jax
      >>> from thanos_jax import losses
      >>> from thanos_jax.train import grad_cache
      >>> images, labels = jax.random.normal(jax.random.key(0), (32, 5)), jax.numpy.arange(32) % 4
      >>> def encode(weights, chunk):  # a linear encoder with noise: a key for each chunk
      ...     noise = jax.random.normal(chunk["key"], chunk["image"].shape)
      ...     return (chunk["image"] + 0.1 * noise) @ weights, 0.0, None
      >>> def loss(embeddings):
      ...     return losses.supcon(grad_cache.merge(embeddings), labels), None
      >>> chunks = grad_cache.split({"image": images}, 8)
      >>> chunks["key"] = jax.random.split(jax.random.key(1), 4)
      >>> differentiate = jax.jit(grad_cache.value_and_grad(encode, loss))
      >>> (value, _), gradient = differentiate(jax.numpy.eye(5), chunks)
      >>> gradient.shape
      (5, 5)
    """

    def function(params: PyTree, chunks: PyTree) -> Any:
        count = _length(chunks, "chunks", "chunks")
        params = jax.tree.map(jnp.asarray, params)
        value, beside, cotangents = None, None, ()
        if loss is not None:
            _, embeddings = lax.scan(lambda _, x: (None, encode(params, x)[0]), None, chunks)
            (value, beside), cotangents = jax.value_and_grad(loss, has_aux=True)(embeddings)

        def add(total: PyTree, scanned: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            chunk, cotangent = scanned

            def again(params: PyTree) -> tuple[tuple[PyTree, jax.Array], PyTree]:
                embeddings, own, extra = encode(params, chunk)
                return (() if loss is None else embeddings, _scalar(own)), extra

            (_, own), pull, extra = jax.vjp(again, params, has_aux=True)
            (gradient,) = pull((cotangent, jnp.full_like(own, 1 / count)))
            total = jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, gradient)
            return total, (own, extra)

        zeros = jax.tree.map(
            lambda x: jnp.zeros_like(x, dtype=jnp.promote_types(x.dtype, jnp.float32)), params
        )
        total, (own, extras) = lax.scan(add, zeros, (chunks, cotangents))
        gradient = jax.tree.map(lambda x, like: x.astype(like.dtype), total, params)
        mean = jnp.mean(own)
        return (mean if value is None else value + mean, (beside, extras)), gradient

    return function


def _scalar(own: jax.Array | float) -> jax.Array:
    """Returns a chunk's own loss in float32 or wider."""
    if jnp.shape(own):
        raise ValueError(
            f"encode: expected a scalar as the chunk's own loss, got shape {list(jnp.shape(own))}"
        )
    own = jnp.asarray(own)
    return own.astype(jnp.promote_types(own.dtype, jnp.float32))


def _length(tree: PyTree, name: str, unit: str) -> int:
    """Returns the length of the first axis, which must be the same for all arrays."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(tree)]
    if not shapes or any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(
            f"{name}: expected arrays of the same number of {unit} along the first axis, got "
            f"{[list(shape) for shape in shapes]}"
        )
    if shapes[0][0] < 1:
        raise ValueError(f"{name}: expected at least one along the first axis, got {shapes}")
    return shapes[0][0]
