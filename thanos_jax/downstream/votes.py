"""Neighbours vote on labels, and decide which clusters of a class are trusted as strata."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from thanos_jax.downstream.partition import indexed_sums

_INITIALIZATIONS = 3
_MINIMUM_SHARE = 0.01
_MINIMUM_SIZE = 3
_VOTES = 2**20  # votes held in memory at a time


class Neighbours(NamedTuple):
    """The nearest other embeddings of each embedding, nearest first.

    Attributes:
      indices: int64 [n, k], rows.
      similarities: float64 [n, k], 1 - |z - z'|^2 / 2 of the embeddings divided by their length,
        which is the cosine. A zero embedding stays zero, and its similarities are 1/2.
    """

    indices: np.ndarray
    similarities: np.ndarray


class Votes(NamedTuple):
    """How the neighbours of each row vote for labels; counted in blocks of [rows, classes].

    Attributes:
      found: the neighbours of n rows.
      group: int64 [n], the label of each row, from 0.
      weighted: whether a vote counts by its cosine, a negative one as 0.
      trusted: bool [n], the rows that vote; None: all.
      num_classes: the number of labels, of which some may have no row; None: up to the largest.
    """

    found: Neighbours
    group: np.ndarray
    weighted: bool
    trusted: np.ndarray | None = None
    num_classes: int | None = None

    @property
    def classes(self) -> int:
        """The number of labels."""
        return int(self.group.max()) + 1 if self.num_classes is None else self.num_classes

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields blocks of the given rows (None: all) and their votes, float64 [rows, classes].

        A vote count is the number of neighbours with a label, or the sum of their cosines.
        """
        rows = np.arange(len(self.group)) if rows is None else rows
        block = max(1, _VOTES // self.classes)
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            indices = self.found.indices[some]
            weights = np.ones(indices.shape)
            if self.weighted:
                weights = np.maximum(self.found.similarities[some], 0)
                weights[weights.sum(axis=1) == 0] = 1
            if self.trusted is not None:
                weights = weights * self.trusted[indices]
            cells = np.arange(len(some))[:, None] * self.classes + self.group[indices]
            counts = np.bincount(cells.ravel(), weights.ravel(), minlength=len(some) * self.classes)
            yield some, counts.reshape(len(some), self.classes)


def outvoted(votes: Votes) -> np.ndarray:
    """Returns b / (a + b), float64 [n]: a votes for the row's label, b for the strongest other."""
    suspicion = np.empty(len(votes.group))
    for rows, others in votes.blocks():
        place = np.arange(len(rows)), votes.group[rows]
        own = others[place]
        others[place] = 0
        rival = others.max(axis=1)
        suspicion[rows] = rival / (own + rival)
    return suspicion


def trusted_strata(
    members: np.ndarray, votes: Votes, rows: np.ndarray, clusters: int, seed: int
) -> np.ndarray:
    """Clusters a class; returns the centres whose neighbours agree, float [strata, d], at least 1.

    Args:
      members: float [m, d], the members of the class, of length 1.
      votes: the votes of all rows.
      rows: int64 [m], the members' rows.
      clusters: number of clusters, at least 1; clipped to m.
      seed: of k-means.
    """
    clusters = min(clusters, len(members))
    with warnings.catch_warnings():
        # Members of a collapsed class coincide, and k-means then finds fewer clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(clusters, n_init=_INITIALIZATIONS, random_state=seed).fit(members)
    counts = np.bincount(model.labels_, minlength=clusters)
    totals = np.zeros((clusters, votes.classes))
    cluster = np.empty(len(votes.group), np.int64)
    cluster[rows] = model.labels_
    for some, given in votes.blocks(rows):
        totals += indexed_sums(given, cluster[some], clusters)
    agree = totals[:, votes.group[rows[0]]]
    large = counts >= max(_MINIMUM_SHARE * len(members), _MINIMUM_SIZE)
    trusted = large & (agree >= totals.max(axis=1))
    if not trusted.any():
        shares = agree / np.maximum(totals.sum(axis=1), 1)
        trusted[np.lexsort((-counts, -shares))[0]] = True
    return model.cluster_centers_[trusted]
