"""Pair statistics: the few numbers per anchor from which every contrastive loss is made.

All that is quadratic in the batch happens here. An implementation is a function with the signature
of `statistics` less `implementation`; a new one is a module beside `dense` and a line in
`IMPLEMENTATIONS`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

import jax

from thanos_jax.losses.pairs import dense, streaming
from thanos_jax.losses.pairs.entries import AxisName, Entries, make_entries, normalize

IMPLEMENTATIONS = {
    "dense": dense.statistics,
    "streaming": streaming.statistics,
    "streaming_gather": functools.partial(streaming.statistics, schedule="gather"),
    "streaming_ring": functools.partial(streaming.statistics, schedule="ring"),
}
OPTIONS = ("auto", *IMPLEMENTATIONS)

__all__ = ["IMPLEMENTATIONS", "OPTIONS", "Entries", "make_entries", "normalize", "statistics"]


def statistics(
    entries: Entries,
    *,
    temperature: jax.Array | float,
    views: str,
    names: Collection[str],
    axis_name: AxisName | None,
    implementation: str,
) -> dict[str, jax.Array]:
    """Computes the named statistics of every anchor.

    With s_ij the similarity over the temperature, A(i) the candidates of anchor i, P(i) those of
    its class, N(i) the others, a(i) its image's other views:

      log_sum_all    log sum_{j in A(i)} exp s_ij
      log_sum_same   log sum_{j in P(i)} exp s_ij
      mean_same      mean over P(i) of s_ij
      mean_own       mean over a(i) of s_ij
      one_positive   mean over p in P(i) of  log sum_{j in {p} and N(i)} exp s_ij - s_ip
      has_same       whether P(i) is not empty

    The mean over, or the logarithm of, an empty set is given as 0.

    Args:
      entries: this device's N entries; each is an anchor.
      temperature: positive scalar.
      views: "all": A(i) is every entry but i; "cross": every entry of another view than i's.
      names: which statistics.
      axis_name: the axis over which the entries of the global batch are sharded; candidates come
        from the whole of it.
      implementation: a key of `IMPLEMENTATIONS`, or "auto" for the best at hand ("dense").

    Returns:
      name -> float [N] (bool [N] for has_same).
    """
    compute = IMPLEMENTATIONS["dense" if implementation == "auto" else implementation]
    return compute(entries, temperature=temperature, views=views, names=names, axis_name=axis_name)
