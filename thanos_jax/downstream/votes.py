"""The votes of neighbours on labels, and the strata of a class that they trust."""

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
_VOTES = 2**20  # numbers of votes held at a time


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
    """The votes of neighbours for the labels of each row; a block of [n, classes] at a time.

    Attributes:
      found: the neighbours of n rows.
      group: int64 [n], the label of each row, from 0.
      weighted: whether a vote counts by its cosine, a negative one as 0.
      trusted: bool [n], the rows that vote; None: all.
    """

    found: Neighbours
    group: np.ndarray
    weighted: bool
    trusted: np.ndarray | None = None

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(self.group.max()) + 1

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields some of the rows asked for, all by default, and votes, float64 [rows, classes].

        How many neighbours have each label, or the sum of cosines.
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
    """Returns float64 [n], b / (a + b) of the votes a for the own label, b for the next rival."""
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
    """Returns float [strata, d], at least one: clusters of a class that its neighbours agree with.

    Args:
      members: float [m, d], the members of the class, of length 1.
      votes: of all classes.
      rows: int64 [m], the members' rows.
      clusters: at least 1, and taken to be m at most.
      seed: of k-means.
    """
    clusters = min(clusters, len(members))
    with warnings.catch_warnings():
        # Members of a collapsed class coincide; fewer clusters are found then.
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
