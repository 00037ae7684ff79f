"""Our rule: cells of a class that do not differ in classifier error form one group."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist

from thanos_jax.checks import check_at_least
from thanos_jax.downstream.groups.clusters import (
    ClassClusters,
    Clustering,
    Examples,
    fit,
    minimum_size,
    search,
)
from thanos_jax.downstream.partition import indexed_means, indexed_sums

_FEWEST_PIECES = 4
# Defaults: examples of a class for each cell; fewest and most cells.
_CELL_SIZE, _CELLS = 200, (40, 200)


class ErrorRule(NamedTuple):
    """Our rule, for classes whose clearest clusters are not the groups that matter.

      1. The class is clustered as by `SilhouetteRule`: k = 2 .. max_clusters clusters are tried,
         and the k of the largest silhouette is taken.
      2. The mean of each cluster is subtracted from its embeddings, and the residuals of all
         clusters are clustered together. The two clusterings cross in about `cells` cells.
         Structure that many clusters share, as digits share backgrounds, shows in the second
         clustering even where it is small compared with the first.
      3. An example's error is log((1 - p) / p), from its loss -log p clipped to 1e-6 .. 30. Two
         cells differ if their mean errors are at least `gap` standard deviations (within cells)
         and `significance` standard errors apart, in training or in validation. The two cells of
         nearest means that do not differ are merged, until all differ. Then cells smaller than
         max(0.5 % of the class, 25) training examples join the cell of closest error. A class with
         equal errors everywhere stays one group, and groups of equal error are not told apart.

    Attributes:
      clusters: number of groups of a class, at least 1 (fewer groups if there are fewer cells);
        None: found by the rule.
      cells: at least 2; a cluster of step 1 has max(4, cells // k) of them. None: one cell for 200
        examples of the class, clipped to 40 .. 200. A rare group is found only if cells are about
        as small as the group.
      gap: at least 0. 0.8 is a large effect by Cohen's convention.
      significance: at least 0.
    """

    clusters: int | None = None
    cells: int | None = None
    gap: float = 0.8
    significance: float = 3.0

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_at_least("rule.clusters", self.clusters, 1)
        check_at_least("rule.cells", self.cells, 2)
        for name in ("gap", "significance"):
            bound = getattr(self, name)
            if not (math.isfinite(bound) and bound >= 0):
                raise ValueError(
                    f"rule.{name}: expected a finite number of at least 0, got {bound}"
                )

    def split(
        self, model: ClassClusters, examples: Examples, clustering: Clustering, seed: int
    ) -> ClassClusters:
        """Returns the model of a class with its groups."""
        points = examples.points
        model = model.with_base(search(points, clustering, seed))
        clusters, count = model.predict(points), len(model.pieces)
        sizes = np.maximum(np.bincount(clusters, minlength=count), 1)
        centres = indexed_sums(points, clusters, count) / sizes[:, None]
        cells = self.cells or min(max(len(points) // _CELL_SIZE, _CELLS[0]), _CELLS[1])
        factor = max(_FEWEST_PIECES, cells // count)
        shared = fit(points - centres[clusters], factor, clustering, seed)
        model = model._replace(centres=centres).with_pieces((shared,) * count, factor)
        return model._replace(places=_merge(model, examples, self).reshape(count, factor))


def _merge(model: ClassClusters, examples: Examples, rule: ErrorRule) -> np.ndarray:
    """Merges cells; returns their group numbers, int64 [cells], -1 for empty cells."""
    points, count = examples.points, model.places.size
    cells = model.predict(points)
    sizes = np.bincount(cells, minlength=count)
    sums = indexed_sums(points, cells, count)
    splits = []
    if examples.losses is not None:
        splits.append(_scaled_errors(examples.losses, cells, count))
    if examples.validation_points is not None and examples.validation_losses is not None:
        held_out = model.predict(examples.validation_points)
        splits.append(_scaled_errors(examples.validation_losses, held_out, count))
    errors, numbers = (np.stack(figures) for figures in zip(*splits, strict=True))

    members = np.where(sizes > 0, np.arange(count), -1)
    while True:
        alive = np.unique(members[members >= 0])
        if len(alive) <= (rule.clusters or 1):
            return members
        first, second = np.triu_indices(len(alive), k=1)
        # nan where a cell has no example in a split: that split then shows no difference.
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, doubt = errors[:, alive] / numbers[:, alive], 1 / numbers[:, alive]
            apart = np.abs(mean[:, first] - mean[:, second])
            noise = np.sqrt(doubt[:, first] + doubt[:, second])
            differ = (apart >= rule.gap) & (apart >= rule.significance * noise)
        apart = np.nan_to_num(apart).max(axis=0)
        small = sizes[alive] < minimum_size(len(points))
        differ = differ.any(axis=0)
        if not differ.all():
            cost = np.where(differ, np.inf, pdist(sums[alive] / sizes[alive, None]))
        elif rule.clusters is not None:
            cost = apart
        elif small.any():
            cost = np.where(small[first] | small[second], apart, np.inf)
        else:
            return members
        pair = int(np.argmin(cost))
        kept, gone = alive[first[pair]], alive[second[pair]]
        for figures in (sizes, sums, errors.T, numbers.T):
            figures[kept] += figures[gone]
        members[members == gone] = kept


def _scaled_errors(
    losses: np.ndarray, cells: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of errors of each cell, in standard deviations within cells, and its size.

    Sums are 0 where no cell has two examples to estimate the deviation from.
    """
    # Log odds log((1 - p) / p) of losses -log p.
    errors = np.log(np.expm1(np.clip(losses, 1e-6, 30.0)))
    numbers = np.bincount(cells, minlength=count).astype(np.float64)
    means = indexed_means(errors, cells, count)
    spare = len(cells) - np.count_nonzero(numbers)
    if not spare:
        return np.zeros(count), numbers
    deviation = math.sqrt(float(np.sum((errors - means[cells]) ** 2)) / spare)
    # The floor keeps rounding errors from counting as differences where the deviation is 0.
    return np.bincount(cells, weights=errors, minlength=count) / max(deviation, 1e-6), numbers
