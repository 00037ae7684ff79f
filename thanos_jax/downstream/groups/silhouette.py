"""GEORGE's rule: clusters of largest silhouette, and the pieces of them that stand apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thanos_jax.checks import check_at_least
from thanos_jax.downstream.groups.clusters import (
    MINIMUM_SIZE,
    ClassClusters,
    Clustering,
    Examples,
    fit,
    minimum_size,
    search,
    silhouettes,
)
from thanos_jax.downstream.partition import indexed_means


class SilhouetteRule(NamedTuple):
    """GEORGE's rule: the clearest clusters of a class are its groups.

      1. k = 2 .. max_clusters clusters are tried. The k of the largest silhouette is taken,
         averaged over each cluster's examples and then over clusters (ties: the smallest k).
      2. Each cluster is split into `overcluster` pieces. A piece becomes a group of its own if its
         mean silhouette among all pieces is above 0 and above its mean silhouette among the
         clusters, its mean loss is at least the cluster's, and it has at least max(0.5 % of the
         class, 25) training examples and 25 validation examples. The other pieces stay one group.

    Without validation embeddings, step 2 does not require validation examples.

    Attributes:
      clusters: number of clusters in step 1, at least 1; None: found by silhouette.
      overcluster: pieces of a cluster, at least 1. 1 skips step 2, and needs no losses.
    """

    clusters: int | None = None
    overcluster: int = 5

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_at_least("rule.clusters", self.clusters, 1)
        check_at_least("rule.overcluster", self.overcluster, 1)

    def split(
        self, model: ClassClusters, examples: Examples, clustering: Clustering, seed: int
    ) -> ClassClusters:
        """Returns the model of a class with its groups."""
        points, losses, factor = examples.points, examples.losses, self.overcluster
        if self.clusters is None:
            base = search(points, clustering, seed)
        else:
            base = fit(points, self.clusters, clustering, seed)
        model = model.with_base(base)
        if losses is None or factor == 1:
            return model
        clusters, count = model.predict(points), len(model.pieces)
        pieces = (fit(points[clusters == c], factor, clustering, seed) for c in range(count))
        model = model.with_pieces(tuple(pieces), factor)
        cells = model.predict(points)
        sizes = np.bincount(cells, minlength=model.places.size)
        cluster_loss = np.repeat(indexed_means(losses, clusters, count), factor)
        before, after = (
            indexed_means(values, cells, len(sizes))
            for values in silhouettes(points, (clusters, cells), clustering.samples, seed)
        )
        with np.errstate(invalid="ignore"):  # nan: no example, or none drawn; not kept
            keep = (
                (after > np.maximum(before, 0))
                & (indexed_means(losses, cells, len(sizes)) >= cluster_loss)
                & (sizes >= minimum_size(len(points)))
            )
        if examples.validation_points is not None:
            held_out = model.predict(examples.validation_points)
            keep &= np.bincount(held_out, minlength=len(sizes)) >= MINIMUM_SIZE
        # For each cluster: one number for all pieces that are not kept, then one for each kept.
        own = np.arange(count)[:, None] * (factor + 1)
        shape = model.places.shape
        places = np.where(keep.reshape(shape), own + 1 + np.arange(factor), own)
        return model._replace(places=places)
