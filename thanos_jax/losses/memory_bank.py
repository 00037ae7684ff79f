"""A memory bank: embeddings of earlier batches as further candidates of a contrastive loss.

    from thanos_jax import losses

    bank = losses.memory_bank.init(size=4096, dim=128)
    loss = losses.supcon(embeddings, labels, memory_bank=bank)
    bank = losses.memory_bank.push(bank, embeddings, labels)  # after the loss

A bank is a queue of fixed size: pushed entries replace the oldest ones. Every entry is a candidate
of every anchor, also with views="cross". It is a positive if its label equals the anchor's; for
`losses.info_nce`, which has no labels, it is always a negative. Entries are never anchors and have
no gradient. Push a batch after computing its loss; otherwise each embedding would be its own
candidate.

The method decides what to push: the embeddings themselves (Wang et al.), or the embeddings of a
slowly moving copy of the encoder (He et al.), which Khosla et al. try for the supervised loss.

All functions are pure and work under `jax.jit`. A donated bank is changed in place:
`jax.jit(losses.memory_bank.push, donate_argnums=0)`. Inside `jax.pmap` or `jax.shard_map` the bank
is replicated on every device; `push` with an axis name keeps it the same everywhere.

References:
  He et al., Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020,
  https://arxiv.org/abs/1911.05722; Wang et al., Cross-Batch Memory for Embedding Learning, CVPR
  2020, https://arxiv.org/abs/1912.06798; Khosla et al., Supervised Contrastive Learning, NeurIPS
  2020, https://arxiv.org/abs/2004.11362
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from thanos_jax.losses import checks, placement
from thanos_jax.losses.pairs.axes import AxisName, gather_same
from thanos_jax.losses.pairs.entries import (
    Entries,
    compute_dtype,
    make_bank_entries,
)

__all__ = ["MemoryBank", "init", "push"]


class MemoryBank(NamedTuple):
    """A queue of embeddings, made by `init`; a pytree, which any pytree serializer can save.

    If a serializer restores a dictionary, `MemoryBank(**restored)` is the bank.

    Attributes:
      embeddings: float [size, dim], as pushed, not normalized.
      labels: integer [size], or None for a bank without labels.
      filled: bool [size], whether a place has an entry.
      position: int32 [], the place of the next entry.
    """

    embeddings: jax.Array
    labels: jax.Array | None
    filled: jax.Array
    position: jax.Array


export.register_namedtuple_serialization(
    MemoryBank, serialized_name="thanos_jax.losses.memory_bank.MemoryBank"
)


def init(size: int, dim: int, *, dtype: Any = jnp.float32, label_dtype: Any = int) -> MemoryBank:
    """Makes an empty bank.

    Args:
      size: number of entries; every view of an image is an entry.
      dim: length of an embedding.
      dtype: floating dtype in which embeddings are stored. A loss computes in the dtype of its own
        embeddings.
      label_dtype: integer dtype of the labels. `int` is jax's default: int32, or int64 with x64.
        None: a bank without labels, for `losses.info_nce`.

    Returns:
      A MemoryBank without entries. A loss with it equals the loss without a bank.

    Raises:
      TypeError: size or dim is not an integer, or a dtype is of the wrong kind.
      ValueError: size or dim is not positive.
    """
    for name, value in (("size", size), ("dim", dim)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}: expected an integer, got {checks.describe(value)}")
        if value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype: expected a floating point dtype, got {dtype!r}")
    if label_dtype is not None and not jnp.issubdtype(label_dtype, jnp.integer):
        raise TypeError(f"label_dtype: expected an integer dtype or None, got {label_dtype!r}")
    return MemoryBank(
        embeddings=jnp.zeros((size, dim), dtype),
        labels=None if label_dtype is None else jnp.zeros(size, label_dtype),
        filled=jnp.zeros(size, bool),
        position=jnp.zeros((), jnp.int32),
    )


def push(
    bank: MemoryBank,
    embeddings: Any,
    labels: Any = None,
    *,
    where: Any = None,
    axis_name: AxisName | None = None,
) -> MemoryBank:
    """Pushes a batch into the bank; it replaces the oldest entries.

    If the batch has more entries than the bank, the last ones are kept.

    Args:
      bank: the bank, the same on every device.
      embeddings: float [batch, views, dim] or [batch, dim]; every view becomes an entry.
      labels: integer [batch]; None for a bank without labels.
      where: bool [batch] or [batch, views]; False marks padding, which is not pushed. None: every
        row is pushed.
      axis_name: inside `jax.pmap`, `jax.shard_map` or `jax.vmap`, the axis over which the batch is
        sharded; every device then pushes the whole batch, in the order of devices.

    Returns:
      The updated bank. No gradient flows through it. Non-finite embeddings are pushed too, and make
      losses non-finite for as long as they are in the bank.

    Raises:
      TypeError: `bank` is not a MemoryBank, an argument has the wrong dtype, labels are missing, or
        labels are given for a bank without labels.
      ValueError: an argument has the wrong shape, or labels need 64 bits and x64 is off.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> bank = losses.memory_bank.init(size=3, dim=2)
      >>> bank = losses.memory_bank.push(bank, jnp.ones((2, 2)), jnp.array([7, 8]))
      >>> bank.labels.tolist(), bank.filled.tolist()
      ([7, 8, 0], [True, True, False])
      >>> bank = losses.memory_bank.push(bank, jnp.ones((2, 2)), jnp.array([9, 10]))
      >>> bank.labels.tolist()
      [10, 8, 9]
    """
    embeddings = lax.stop_gradient(checks.embeddings(embeddings))
    batch, views, dim = embeddings.shape
    bank = checked("bank", bank, dim)
    if (labels is None) != (bank.labels is None):
        expected = (
            "labels, as the bank has them" if labels is None else "None, as the bank has none"
        )
        raise TypeError(f"labels: expected {expected}, got {checks.describe(labels)}")
    if bank.labels is not None:
        labels = _fitting(labels, batch, bank.labels.dtype)
    rows = {
        "embeddings": embeddings.astype(bank.embeddings.dtype),
        "labels": labels,
        "where": checks.where(where, batch, views),
    }
    return placement.place(_pushed, None, rows, bank, axis_name)


def _pushed(
    _: None, rows: dict[str, Any], bank: MemoryBank, axis_name: AxisName | None
) -> MemoryBank:
    """Returns the bank after pushing the rows of all devices."""
    batch, views, dim = rows["embeddings"].shape
    filled = rows["where"].reshape(batch, -1)
    new = {
        "embeddings": rows["embeddings"].reshape(-1, dim),
        "filled": jnp.broadcast_to(filled, (batch, views)).reshape(-1),
    }
    if bank.labels is not None:
        new["labels"] = jnp.repeat(rows["labels"], views)
    if axis_name is not None:
        new = {name: gather_same(array, axis_name) for name, array in new.items()}
    size, number = len(bank.filled), len(new["filled"])
    rank = jnp.cumsum(new["filled"], dtype=jnp.int32)  # 1, 2, ... for the rows that are pushed
    count = rank[-1]
    kept = new["filled"] & (rank > count - size)
    # Rows that are not kept get distinct places beyond the bank, where they are dropped.
    beyond = size + jnp.arange(number, dtype=jnp.int32)
    place = jnp.where(kept, (bank.position + rank - 1) % size, beyond)

    def put(name: str) -> jax.Array:
        there = getattr(bank, name).at[place]
        return there.set(new[name], mode="drop", unique_indices=True)

    return MemoryBank(
        embeddings=put("embeddings"),
        labels=None if bank.labels is None else put("labels"),
        filled=put("filled"),
        position=(bank.position + count) % size,
    )


def candidates(
    bank: Any, embeddings: jax.Array, labels: jax.Array | None, *, normalized: bool
) -> tuple[jax.Array | None, Entries]:
    """Returns the bank as candidates of a loss; `bank` is the argument `memory_bank`.

    Args:
      bank: a MemoryBank of the embeddings' dim.
      embeddings: float [batch, views, dim].
      labels: integer [batch], not renamed, or None: every image is a class of its own.
      normalized: whether rows are divided by their length.

    Returns:
      The labels, in a dtype in which they can be compared with the bank's, and the bank's entries.

    Raises:
      TypeError: `bank` is not a MemoryBank, has no labels, or has labels of a dtype that cannot be
        compared with the dtype of `labels`.
      ValueError: the bank and the embeddings differ in dim.
    """
    bank = checked("memory_bank", bank, embeddings.shape[-1])
    theirs = None
    if labels is not None:
        if bank.labels is None:
            raise TypeError("memory_bank: expected one with labels for this loss, got one without")
        labels, theirs = checks.comparable(labels, bank.labels, "memory_bank.labels")
    entries = make_bank_entries(
        bank.embeddings,
        theirs,
        bank.filled,
        dtype=compute_dtype(embeddings),
        normalized=normalized,
    )
    return labels, entries


def checked(name: str, value: Any, dim: int) -> MemoryBank:
    """Returns a bank of this dim with jax arrays, after checking that its arrays fit together."""
    value = checks.held(value)
    if not isinstance(value, MemoryBank):
        raise TypeError(
            f"{name}: expected a MemoryBank, made by losses.memory_bank.init, "
            f"got {checks.describe(value)}"
        )
    checks.floating(f"{name}.embeddings", value.embeddings)
    shape = value.embeddings.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{name}.embeddings: expected a non-empty array [size, dim], "
            f"got {checks.describe(value.embeddings)}"
        )
    size = shape[0]
    for field, expected, kind in (("filled", (size,), jnp.bool_), ("position", (), jnp.int32)):
        array = getattr(value, field)
        if getattr(array, "shape", None) != expected or array.dtype != kind:
            raise ValueError(
                f"{name}.{field}: expected {jnp.dtype(kind)}{list(expected)} for embeddings "
                f"{list(shape)}, got {checks.describe(array)}"
            )
    labels = value.labels
    if labels is not None:
        labels = checks.labels(labels, size, name=f"{name}.labels", rename=False)
    if shape[1] != dim:
        raise ValueError(
            f"{name}: expected entries of the length of the embeddings, {dim}, got {list(shape)}"
        )
    return MemoryBank(
        embeddings=jnp.asarray(value.embeddings),
        labels=labels,
        filled=jnp.asarray(value.filled),
        position=jnp.asarray(value.position),
    )


def _fitting(labels: Any, batch: int, dtype: Any) -> jax.Array:
    """Returns the labels in the bank's dtype; raises TypeError if that could lose values."""
    checked = checks.labels(labels, batch, rename=False)
    if not np.can_cast(checked.dtype, dtype, "safe"):
        raise TypeError(
            f"labels: expected a dtype whose values all fit the bank's {dtype}, "
            f"got {checks.describe(checked)}; losses.memory_bank.init takes a label_dtype"
        )
    return checked.astype(dtype)
