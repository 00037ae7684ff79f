"""Clusters of one class: fitting, silhouettes, and prediction for other embeddings."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_samples
from sklearn.mixture import GaussianMixture

from thanos_jax.checks import check_at_least, check_option
from thanos_jax.downstream import partition
from thanos_jax.downstream.options import CLUSTER_PROJECTIONS, CLUSTERINGS
from thanos_jax.errors import MissingDependencyError

MINIMUM_SIZE = 25

_INITIALIZATIONS = 3
_MINIMUM_SHARE = 0.005


class Clustering(NamedTuple):
    """How the embeddings of a class are clustered.

    Attributes:
      method: "kmeans", or "gmm": full covariances; costly and fragile beyond a few dimensions.
      projection: "none", or "umap": two dimensions, fitted to each class (extra "umap").
      max_clusters: the most clusters that a search tries, at least 2.
      normalize: divide embeddings by their length first.
      samples: silhouettes use at most this many examples of a class, at least 3.
    """

    method: str = "kmeans"
    projection: str = "none"
    max_clusters: int = 10
    normalize: bool = True
    samples: int = 2000

    def check(self) -> None:
        """Raises ValueError for an option that is unknown or out of range."""
        check_option("clustering.method", self.method, CLUSTERINGS)
        check_option("clustering.projection", self.projection, CLUSTER_PROJECTIONS)
        check_at_least("clustering.max_clusters", self.max_clusters, 2)
        check_at_least("clustering.samples", self.samples, 3)


class Examples(NamedTuple):
    """Points [n, d] and losses [n] of training and validation; None where they are not known."""

    points: np.ndarray
    losses: np.ndarray | None
    validation_points: np.ndarray | None
    validation_losses: np.ndarray | None


class ClassClusters(NamedTuple):
    """A fitted model that assigns embeddings of one class to groups.

    Attributes:
      reducer: a fitted UMAP, or None.
      base: a fitted KMeans or GaussianMixture, or None for one cluster.
      centres: float64 [base clusters, projected d], subtracted before a cluster is split.
      pieces: for each cluster of `base`, the fitted model that splits it, or None.
      places: int64 [base clusters, pieces], the group of each piece.
    """

    reducer: Any
    base: Any
    centres: np.ndarray
    pieces: tuple[Any, ...]
    places: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Returns points [n, d] in the space that was clustered."""
        if self.reducer is None or not len(points):
            return points
        return np.asarray(self.reducer.transform(points), np.float64)

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Returns the group of each projected point, int64 [n]."""
        clusters = np.zeros(len(points), np.int64)
        if self.base is not None and len(points):
            clusters = self.base.predict(points).astype(np.int64)
        found = np.zeros(len(points), np.int64)
        for number, (piece, centre) in enumerate(zip(self.pieces, self.centres, strict=True)):
            mine = clusters == number
            if piece is not None and mine.any():
                found[mine] = piece.predict(points[mine] - centre)
        return self.places[clusters, found]

    def with_base(self, base: Any) -> ClassClusters:
        """Returns a model whose groups are the clusters of `base`."""
        count = 1
        if base is not None:
            count = base.n_components if isinstance(base, GaussianMixture) else base.n_clusters
        return self._replace(
            base=base,
            centres=np.zeros((count, self.centres.shape[1])),
            pieces=(None,) * count,
            places=np.arange(count)[:, None],
        )

    def with_pieces(self, pieces: tuple[Any, ...], each: int) -> ClassClusters:
        """Returns a model that splits every cluster into `each` pieces; each piece is a group."""
        places = np.arange(len(pieces) * each).reshape(len(pieces), each)
        return self._replace(pieces=pieces, places=places)


def umap_class() -> Any:
    """Returns the class UMAP, or raises MissingDependencyError."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingDependencyError(
            f"projection: 'umap' needs umap-learn: {error}. Install it with: pip install '.[umap]' "
            "in the project's folder, or pass projection='none'"
        ) from error
    return UMAP


def fit(points: np.ndarray, k: int, clustering: Clustering, seed: int) -> Any:
    """Fits k clusters, or as many as there are different points; None for one."""
    k = min(k, len(np.unique(points, axis=0)))
    if k < 2:
        return None
    options = {"n_init": _INITIALIZATIONS, "random_state": seed}
    if clustering.method == "kmeans":
        return KMeans(k, **options).fit(points)
    with warnings.catch_warnings():
        # A mixture that has not quite converged is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(k, **options).fit(points)


def search(points: np.ndarray, clustering: Clustering, seed: int) -> Any:
    """Fits 2 to max_clusters clusters; returns the fit of largest silhouette, or None."""
    best, base = -math.inf, None
    # A silhouette needs fewer clusters than examples.
    distinct = len(np.unique(points, axis=0))
    for k in range(2, min(clustering.max_clusters, distinct - 1) + 1):
        candidate = fit(points, k, clustering, seed)
        score = mean_silhouette(points, candidate.predict(points), clustering.samples, seed)
        if score > best:  # never where it is nan
            best, base = score, candidate
    return base


def silhouettes(
    points: np.ndarray, partitions: tuple[np.ndarray, ...], samples: int, seed: int
) -> list[np.ndarray]:
    """Returns each point's silhouette in each partition; nan for points not drawn.

    All are 0 in a partition whose drawn points are all in one part, or each in its own.
    """
    drawn = np.arange(len(points))
    if len(points) > samples:
        drawn = np.sort(np.random.default_rng(seed).choice(len(points), samples, replace=False))
    distances = squareform(pdist(points[drawn]))
    found = []
    for labels in partitions:
        values = np.full(len(points), np.nan)
        parts = len(np.unique(labels[drawn]))
        values[drawn] = (
            silhouette_samples(distances, labels[drawn], metric="precomputed")
            if 2 <= parts < len(drawn)
            else 0.0
        )
        found.append(values)
    return found


def mean_silhouette(points: np.ndarray, labels: np.ndarray, samples: int, seed: int) -> float:
    """Returns the mean over clusters of their mean silhouette; nan for one cluster."""
    if labels.min() == labels.max():
        return math.nan
    (values,) = silhouettes(points, (labels,), samples, seed)
    drawn = ~np.isnan(values)
    _, group, counts = np.unique(labels[drawn], return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), 1))
    partition.add_groups(sums, values[drawn, None], group)
    return float(np.mean(sums[:, 0] / counts))


def minimum_size(count: int) -> float:
    """Returns the smallest size of a group, in training examples, in a class of `count`."""
    return max(_MINIMUM_SHARE * count, MINIMUM_SIZE)
