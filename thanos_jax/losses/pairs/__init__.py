"""Pair statistics: the few numbers per anchor from which every contrastive loss is computed.

All computation that is quadratic in the batch is here. An implementation is a function with the
signature of `statistics`, without `implementation`:

  dense             the definition, with the whole similarity matrix
  streaming         tile by tile, in linear memory; devices share the work in one of two ways:
  streaming_gather  each device gathers all entries and computes the pairs of its own entries
  streaming_ring    blocks of entries travel half way around the ring of devices
  pallas            as streaming, with kernels for TPU and Hopper GPU instead of loops; not yet
                    timed, therefore never chosen by "auto"
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import jax
from jax import lax

from thanos_jax.losses.pairs import dense, pallas, streaming
from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.pairs.counts import count_same
from thanos_jax.losses.pairs.entries import (
    Entries,
    make_bank_entries,
    make_entries,
    normalize,
)

IMPLEMENTATIONS: dict[str, Callable[..., dict[str, jax.Array]]] = {
    "dense": dense.statistics,
    "streaming": streaming.statistics,
    "streaming_gather": functools.partial(streaming.statistics, schedule="gather"),
    "streaming_ring": functools.partial(streaming.statistics, schedule="ring"),
    "pallas": pallas.statistics,
}
OPTIONS = ("auto", *IMPLEMENTATIONS)

# Up to this number of pairs of a device's anchors and all candidates, "auto" is "dense". Their
# similarities take 4 MB. Dense is then as fast, compiles faster, and has every derivative.
DENSE_UNTIL = 1024 * 1024

# From this temperature on, exponentials of similarities keep all digits in any dtype.
_HIGH_ENOUGH = 1.0 / 60.0

__all__ = [
    "IMPLEMENTATIONS",
    "OPTIONS",
    "Entries",
    "choose",
    "coldest",
    "count_same",
    "make_bank_entries",
    "make_entries",
    "normalize",
    "statistics",
]


def choose(implementation: str, anchors: int, others: int = 0, devices: int = 1) -> str:
    """Resolves "auto": "dense" for up to `DENSE_UNTIL` pairs, otherwise "streaming".

    Args:
      implementation: one of `OPTIONS`.
      anchors: number of entries of a device.
      others: number of entries of the bank.
      devices: number of devices over which the batch is sharded.

    Returns:
      A key of `IMPLEMENTATIONS`.
    """
    if implementation != "auto":
        return implementation
    numbers = (anchors, others)
    if not all(isinstance(number, int) for number in numbers):
        return "dense"  # sizes are symbols, as `jax.export` has them, and tiles need numbers
    return "dense" if anchors * (anchors * devices + others) <= DENSE_UNTIL else "streaming"


def coldest(temperature: jax.Array | float) -> float | None:
    """Returns a static lower bound of a temperature; None if it is traced.

    All temperatures that are high enough for any implementation give the same bound, because every
    static value compiles another program.
    """
    if isinstance(temperature, jax.core.Tracer):
        return None
    return min(float(temperature), _HIGH_ENOUGH)


def statistics(
    entries: Entries,
    *,
    temperature: jax.Array | float,
    views: str,
    names: Collection[str],
    axis_name: AxisName | None,
    implementation: str,
    bank: Entries | None = None,
    coldest: float | None = None,
) -> dict[str, jax.Array]:
    """Computes the named statistics of every anchor.

    s_ij is the similarity divided by the temperature, A(i) are the candidates of anchor i, P(i) the
    candidates of its class, N(i) the other candidates, a(i) the other views of its image:

      log_sum_all    log sum_{j in A(i)} exp s_ij
      log_sum_same   log sum_{j in P(i)} exp s_ij
      mean_same      mean over P(i) of s_ij
      mean_own       mean over a(i) of s_ij
      one_positive   mean over p in P(i) of  log sum_{j in {p} and N(i)} exp s_ij - s_ip
      has_same       whether P(i) is not empty
      has_own        whether a(i) is not empty

    For an empty set, the mean or the logarithm is returned as 0.

    Args:
      entries: this device's N entries; each is an anchor.
      temperature: positive scalar.
      views: "all": A(i) is every entry but i; "cross": every entry of another view than i's.
      names: which statistics.
      axis_name: the axis over which the entries of the global batch are sharded; candidates come
        from the whole of it.
      implementation: a key of `IMPLEMENTATIONS`, or "auto": "dense" for up to `DENSE_UNTIL` pairs,
        otherwise "streaming".
      bank: further entries, the same on every device, with labels of the entries' dtype; or None.
        They are candidates of every anchor, but not anchors, and have no gradient.
      coldest: a lower bound of the temperature, from the function `coldest`.

    Returns:
      name -> float [N] (bool [N] for has_same and has_own).
    """
    implementation = choose(
        implementation,
        entries.valid.shape[0],
        0 if bank is None else bank.valid.shape[0],
        1 if axis_name is None else lax.axis_size(axis_name),
    )
    return IMPLEMENTATIONS[implementation](
        entries,
        temperature=temperature,
        views=views,
        names=names,
        axis_name=axis_name,
        bank=bank,
        coldest=coldest,
    )
