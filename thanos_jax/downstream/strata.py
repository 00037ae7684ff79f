"""Distances between strata under an encoder, and how they depend on its training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import pairwise_distances

from thanos_jax.checks import check_at_least, check_option
from thanos_jax.downstream import partition
from thanos_jax.downstream.arrays import check_on_devices, check_strata
from thanos_jax.downstream.points import Points

KINDS = ("pairs", "means")


class StrataDistances(NamedTuple):
    """Distances between strata, under one encoder or under several.

    Attributes:
      coarse: int64 [strata], each stratum's coarse label, ascending.
      fine: int64 [strata], its fine label, ascending within a class.
      counts: int64 [strata], the number of its members.
      distances: float64 [strata, strata], or [encoders, strata, strata].
      fractions: float64 [encoders], ascending, the fractions of the data that the encoders were
        trained on; empty for one encoder.
    """

    coarse: np.ndarray
    fine: np.ndarray
    counts: np.ndarray
    distances: np.ndarray
    fractions: np.ndarray


def strata_distances(
    embeddings: Any,
    fine: Any,
    coarse: Any,
    *,
    kind: str = "pairs",
    normalize: bool = True,
    samples: int = 100,
    seed: int = 0,
) -> StrataDistances:
    """Measures delta(f, z, z') between all strata z, z' under an encoder f.

        kind="pairs"  mean over x in z, x' in z' of |f(x) - f(x')|: the average distance between
                      points of the two strata. On the diagonal the mean is over pairs of different
                      points of the stratum, and nan where it has only one.
        kind="means"  |mean over z of f - mean over z' of f|; 0 on the diagonal.

    "means" measures where strata lie, "pairs" also how wide they are. "pairs" is never less than
    "means", and equals it where both strata are points. Distances of "pairs" are exact to 1e-7 of
    the longest embedding. Time O((strata * samples)^2 d).

    Args:
      embeddings: floating point [n, d]. A jax array whose rows are split over devices stays there,
        and every process of the job makes this call.
      fine: integer [n], any values.
      coarse: integer [n], any values.
      kind: "pairs" or "means".
      normalize: divide embeddings by their length first, as the contrastive losses do.
      samples: "pairs" draws at most this many members of each stratum, at least 2; "means" uses
        all.
      seed: of the draw.

    Returns:
      Strata in the order of (coarse, fine), and [strata, strata] distances.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, an unknown kind, or samples below 2.

    Source: Fu, Chen et al., "The Details Matter", section 4.2, doi 10.3390/cmsf2022003004, as a
    mean distance between strata.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.strata import strata_distances
      >>> found = strata_distances(np.eye(2), np.array([0, 1]), np.array([0, 0]), kind="means")
      >>> found.distances.round(3)
      array([[0.   , 1.414],
             [1.414, 0.   ]])
    """
    check_option("kind", kind, KINDS)
    check_at_least("samples", samples, 2)
    embeddings, fine, coarse = check_strata(embeddings, fine, coarse)
    points = Points(embeddings, normalize)
    found, stratum = partition.strata(fine, coarse)
    counts = np.bincount(stratum)
    # With the mean as the origin distances are the same, and keep more of their digits.
    mean, _ = points.moments()
    if kind == "means":

        def add(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
            partition.add_groups(sums, rows - mean, stratum[where])

        (sums,) = points.add_up(((len(counts), embeddings.shape[1]), add))
        means = sums / counts[:, None]
        distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    else:
        drawn = _draw(stratum, samples=samples, seed=seed)
        distances = _mean_pair_distances(points.take(drawn) - mean, stratum[drawn])
    return StrataDistances(found[:, 0], found[:, 1], counts, distances, np.zeros(0))


def strata_distances_over_fractions(
    embeddings: Mapping[float, Any],
    fine: Any,
    coarse: Any,
    **options: Any,
) -> StrataDistances:
    """Measures delta(f_t, z, z') under encoders f_t trained on fractions t of the data.

    The less data an encoder is trained on, the likelier it never saw a rare stratum. All encoders
    embed the same images, and "pairs" draws the same images for all.

    Args:
      embeddings: fraction t, above 0 and at most 1 -> f_t of the same n images, [n, d_t].
      fine: integer [n].
      coarse: integer [n].
      **options: keywords of `strata_distances`.

    Returns:
      Strata in the order of (coarse, fine), [fractions, strata, strata] distances, the fractions.

    Raises:
      TypeError: as `strata_distances`.
      ValueError: as `strata_distances`; no embeddings, a fraction out of range, or unequal numbers
        of embeddings and labels, naming the fraction.
    """
    if not embeddings:
        raise ValueError("embeddings: expected at least one fraction, got an empty mapping")
    fractions = sorted(embeddings)
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise ValueError(
                f"embeddings: expected fractions above 0 and at most 1, got {fraction}"
            )
    found = []
    for fraction in fractions:
        rows = check_on_devices(embeddings[fraction], f"embeddings[{fraction}]")
        if len(rows) != np.size(fine):
            raise ValueError(
                f"embeddings[{fraction}]: expected {np.size(fine)} rows, one for each label, got "
                f"{len(rows)}"
            )
        found.append(strata_distances(rows, fine, coarse, **options))
    return found[0]._replace(
        distances=np.stack([one.distances for one in found]),
        fractions=np.array(fractions, np.float64),
    )


def mean_within_classes(found: StrataDistances) -> np.ndarray:
    """Averages distances over the pairs of different strata of one coarse class.

    Args:
      found: from `strata_distances` or `strata_distances_over_fractions`.

    Returns:
      float64 [], or [encoders]; all pairs of strata have equal weight. nan if no class has two.
    """
    same = np.triu(found.coarse[:, None] == found.coarse[None], k=1)
    if not same.any():
        return np.full(found.distances.shape[:-2], np.nan)
    return found.distances[..., same].mean(axis=-1)


def _draw(stratum: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Returns the rows of at most `samples` members of each stratum, stratum by stratum."""
    shuffled = np.random.default_rng(seed).permutation(len(stratum))
    rows, place = partition.in_groups(shuffled, stratum)
    return rows[place < samples]


def _mean_pair_distances(points: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Returns mean distances [strata, strata] of points that are sorted by stratum."""
    counts = np.bincount(stratum)
    ends = np.cumsum(counts)
    starts = ends - counts
    sums = np.empty((len(counts), len(counts)))
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        block = pairwise_distances(points[start:end], points)
        # The computed distance of a point to itself is a rounding error, not 0.
        np.fill_diagonal(block[:, start:end], 0)
        sums[row] = np.add.reduceat(block.sum(axis=0), starts)
    pairs = counts[:, None] * counts[None] - np.diag(counts)
    return np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)
