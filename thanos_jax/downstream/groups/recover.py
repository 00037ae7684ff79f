"""Hidden groups within classes, recovered by clustering embeddings."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from thanos_jax.downstream import partition
from thanos_jax.downstream.arrays import (
    check_embeddings,
    check_floats,
    check_labels,
    check_width,
    unit_rows,
)
from thanos_jax.errors import MissingDependencyError

METHODS = ("kmeans", "gmm")
PROJECTIONS = ("none", "umap")
CHOICES = ("silhouette", "error")

_FOLDS = 5
_INITIALIZATIONS = 3
_FEWEST_PIECES = 4
# Examples of a class for which there is a cell, unless told; and the fewest and most cells.
_CELL_SIZE, _CELLS = 200, (40, 200)
_MINIMUM_SHARE = 0.005
_MINIMUM_SIZE = 25


class ClassClusters(NamedTuple):
    """How an embedding of one class finds its group.

    Attributes:
      first: the class's first group; its others follow.
      width: d.
      reducer: a fitted UMAP, or None.
      base: a fitted KMeans or GaussianMixture, or None for one cluster.
      centres: float64 [base clusters, projected d], subtracted before a cluster is split.
      pieces: for each cluster of `base`, what splits it, or None.
      places: int64 [base clusters, pieces], each piece's group less `first`.
    """

    first: int
    width: int
    reducer: Any
    base: Any
    centres: np.ndarray
    pieces: tuple[Any, ...]
    places: np.ndarray


class Recovered(NamedTuple):
    """Pseudo-groups within classes, numbered over all classes from 0, class by class.

    Attributes:
      groups: int64 [n], each training example's group.
      validation_groups: int64 [m]; empty without validation embeddings.
      classes: int64 [groups], each group's class, ascending.
      clusters: class -> its number of groups.
      silhouettes: class -> mean over its groups of their mean silhouette in the space that was
        clustered; nan where the class is one group.
      losses: float64 [n], those given or the linear classifier's; empty where none were needed.
      models: class -> what `assign` needs.
      normalize: embeddings are divided by their length first.
    """

    groups: np.ndarray
    validation_groups: np.ndarray
    classes: np.ndarray
    clusters: dict[int, int]
    silhouettes: dict[int, float]
    losses: np.ndarray
    models: dict[int, ClassClusters]
    normalize: bool


class _Class(NamedTuple):
    points: np.ndarray
    losses: np.ndarray | None
    validation_points: np.ndarray | None
    validation_losses: np.ndarray | None


class _Settings(NamedTuple):
    method: str
    projection: str
    choice: str
    clusters: int | None
    max_clusters: int
    cells: int | None
    overcluster: int
    gap: float
    significance: float
    samples: int
    seed: int


def recover(
    train_embeddings: Any,
    train_labels: Any,
    validation_embeddings: Any = None,
    validation_labels: Any = None,
    *,
    method: str = "kmeans",
    projection: str = "none",
    choice: str = "silhouette",
    clusters: int | None = None,
    max_clusters: int = 10,
    cells: int | None = None,
    overcluster: int | None = None,
    losses: Any = None,
    validation_losses: Any = None,
    gap: float = 0.8,
    significance: float = 3.0,
    normalize: bool = True,
    samples: int = 2000,
    seed: int = 0,
) -> Recovered:
    """Splits each class into groups by clustering its embeddings; true groups are not looked at.

    choice="silhouette", the rule of GEORGE:
      1. k clusters for k = 2 .. max_clusters; taken is the k whose silhouette is largest, averaged
         over each cluster's examples and then over clusters (of equal ones the smallest).
      2. Each cluster is split into `overcluster` pieces. A piece becomes a group of its own where
         its mean silhouette among all pieces is above 0 and above what it was among the clusters,
         its mean loss is at least the cluster's, it has at least max(0.5 % of the class, 25)
         training examples, and 25 validation examples. The other pieces stay one group.

    choice="error", ours, for classes whose plainest clusters are not the groups that matter:
      1. Clusters as in step 1 above.
      2. Each embedding less the mean of its cluster is clustered again, all clusters together.
         Clusters of both kinds cross in about `cells` cells. What many clusters share, as digits
         share backgrounds, shows in the second clustering, however small beside the first.
      3. An example's error is the log odds log((1 - p) / p) of its loss -log p, kept within
         1e-6 .. 30. Two cells differ where their mean errors are apart by at least `gap` standard
         deviations within cells and by `significance` standard errors, in training or in
         validation. Of all pairs that do not differ the two of nearest means are merged, and so on
         until all differ; then cells smaller than max(0.5 % of the class, 25) training examples
         join the one of closest error. A class where errors are alike everywhere stays whole, and
         groups of equal error are one.

    A linear classifier supplies losses that are not given: logistic regression of the labels on
    the standardized embeddings (L2 weight 1/n), for training examples cross-fitted in 5 folds.
    Silhouettes are of at most `samples` examples of a class.

    Args:
      train_embeddings: floating point [n, d].
      train_labels: integer [n], the classes, any values.
      validation_embeddings: floating point [m, d], or None; "silhouette" then asks nothing of the
        number of validation examples.
      validation_labels: integer [m], classes of training.
      method: "kmeans", or "gmm": full covariances; costly and fragile beyond a few dimensions.
      projection: "none", or "umap": two dimensions, fitted to each class (extra "umap").
      choice: "silhouette" or "error".
      clusters: in place of the search, the clusters of step 1 of "silhouette"; of "error" the final
        groups of a class, if it has so many cells.
      max_clusters: at least 2.
      cells: at least 2, for "error"; a cluster of step 1 has max(4, cells // clusters). None: one
        for 200 examples of the class, but 40 at least and 200 at most. A rare group shows only
        where cells are about as small as it is.
      overcluster: pieces of a cluster for "silhouette", at least 1; None: 5. 1 leaves step 2 out,
        and needs no losses. Not taken by "error".
      losses: floating point [n], the cross-entropy of each training example under a classifier
        trained without groups, best one that has not seen the example.
      validation_losses: floating point [m], likewise, for "error"; not without `losses`.
      gap: at least 0, for "error". 0.8 is a large effect by Cohen's convention.
      significance: at least 0, for "error".
      normalize: divide embeddings by their length first.
      samples: at least 3.
      seed: draws initializations, folds and samples.

    Returns:
      Groups, and what `assign` needs to find those of other examples. The same arguments give the
      same groups.

    Raises:
      TypeError: embeddings or losses not floating point, or labels not integers.
      ValueError: a wrong shape, a number not finite or out of range, an unknown option, a
        validation class unknown in training, or no losses where there is one class only.
      MissingDependencyError: projection "umap" without umap-learn.

    Source: Sohoni et al., "No Subclass Left Behind", arXiv 2011.12945; what it leaves open as in
    its code: 3 initializations, silhouettes above 0, size shares of the class, UMAP with 10
    neighbours and minimal distance 0. Ours: losses by a linear classifier where none are given,
    silhouettes of a sample, and choice="error".
    """
    for name, value, known in (
        ("method", method, METHODS),
        ("projection", projection, PROJECTIONS),
        ("choice", choice, CHOICES),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
    if choice == "error" and overcluster is not None:
        raise ValueError(
            f"overcluster: expected None with choice='error', which has cells, got {overcluster}"
        )
    settings = _Settings(
        method=method,
        projection=projection,
        choice=choice,
        clusters=clusters,
        max_clusters=max_clusters,
        cells=cells,
        overcluster=5 if overcluster is None else overcluster,
        gap=gap,
        significance=significance,
        samples=samples,
        seed=seed,
    )
    for name, low in (("max_clusters", 2), ("cells", 2), ("overcluster", 1), ("samples", 3)):
        value = getattr(settings, name)
        if value is not None and value < low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")
    if clusters is not None and clusters < 1:
        raise ValueError(f"clusters: expected at least 1, or None for a search, got {clusters}")
    for name, bound in (("gap", gap), ("significance", significance)):
        if not (math.isfinite(bound) and bound >= 0):
            raise ValueError(f"{name}: expected a finite number of at least 0, got {bound}")
    umap = _umap() if projection == "umap" else None

    points, labels = _points(train_embeddings, train_labels, "train", normalize)
    names = np.unique(labels)
    validation = None
    if validation_embeddings is not None:
        validation = _points(validation_embeddings, validation_labels, "validation", normalize)
        check_width(points, validation[0], "validation_embeddings")
        _check_known(validation[1], names, "validation_labels")
    elif validation_labels is not None or validation_losses is not None:
        given = "validation_labels" if validation_labels is not None else "validation_losses"
        raise ValueError(f"{given}: expected None without validation_embeddings")
    if losses is not None:
        losses = _check_losses(losses, "losses", length=len(points))
        if validation is not None and validation_losses is not None:
            validation_losses = _check_losses(
                validation_losses, "validation_losses", length=len(validation[0])
            )
    elif validation_losses is not None:
        raise ValueError("validation_losses: expected None without losses")
    elif choice == "error" or settings.overcluster > 1:
        if len(names) < 2:
            raise ValueError(
                "losses: expected losses of the training examples, for train_labels are of one "
                "class and leave a classifier nothing to tell apart, got None"
            )
        with _threads(points):
            losses = _cross_fitted_losses(points, labels, seed=seed)
            if validation is not None and choice == "error":
                validation_losses = _classifier_losses(points, labels, *validation)

    groups = np.empty(len(points), np.int64)
    models: dict[int, ClassClusters] = {}
    silhouettes: dict[int, float] = {}
    sizes: list[int] = []
    for name in names.tolist():
        mine = labels == name
        one = _Class(points[mine], None if losses is None else losses[mine], None, None)
        if validation is not None:
            held_out = validation[1] == name
            one = one._replace(validation_points=validation[0][held_out])
            if validation_losses is not None:
                one = one._replace(validation_losses=validation_losses[held_out])
        with _threads(one.points):
            model, found, silhouettes[name] = _recover_class(one, settings, umap, first=sum(sizes))
        models[name] = model
        groups[mine] = found + model.first
        sizes.append(int(model.places.max()) + 1)
    recovered = Recovered(
        groups=groups,
        validation_groups=np.zeros(0, np.int64),
        classes=np.repeat(names, sizes),
        clusters=dict(zip(names.tolist(), sizes, strict=True)),
        silhouettes=silhouettes,
        losses=np.zeros(0) if losses is None else losses,
        models=models,
        normalize=normalize,
    )
    if validation is None:
        return recovered
    return recovered._replace(validation_groups=_assign(recovered, *validation))


def assign(recovered: Recovered, embeddings: Any, labels: Any) -> np.ndarray:
    """Finds the groups of other examples, whose classes are known.

    Without a projection those of the training examples are `recovered.groups`; UMAP places an
    example anew, and may place it elsewhere.

    Args:
      recovered: from `recover`.
      embeddings: floating point [m, d] of the same encoder.
      labels: integer [m], classes of training.

    Returns:
      int64 [m], as `recovered.groups`.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, or a class unknown in training.
    """
    points = check_embeddings(embeddings, "embeddings").astype(np.float64)
    labels = check_labels(labels, "labels", length=len(points), num_classes=None)
    width = next(iter(recovered.models.values())).width
    if points.shape[1] != width:
        raise ValueError(
            f"embeddings: expected width {width} as in training, got shape {points.shape}"
        )
    _check_known(labels, np.array(list(recovered.models)), "labels")
    return _assign(recovered, unit_rows(points) if recovered.normalize else points, labels)


def _threads(points: np.ndarray) -> threadpool_limits:
    # Threads meet at barriers; few points on a busy machine are faster alone.
    return threadpool_limits(1 if len(points) <= 20_000 else None)


def _umap() -> Any:
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingDependencyError(
            f"projection: 'umap' needs umap-learn: {error}. Install it with: pip install '.[umap]' "
            "in the project's folder, or pass projection='none'"
        ) from error
    return UMAP


def _points(
    embeddings: Any, labels: Any, split: str, normalize: bool
) -> tuple[np.ndarray, np.ndarray]:
    points = check_embeddings(embeddings, f"{split}_embeddings").astype(np.float64)
    labels = check_labels(labels, f"{split}_labels", length=len(points), num_classes=None)
    return (unit_rows(points) if normalize else points), labels


def _check_known(labels: np.ndarray, names: np.ndarray, what: str) -> None:
    unknown = ~np.isin(labels, names)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ValueError(
            f"{what}: expected classes of training, {names.tolist()}, got {labels[row]} in row "
            f"{row}"
        )


def _check_losses(losses: Any, what: str, *, length: int) -> np.ndarray:
    losses = check_floats(losses, what, length=length)
    if losses.min() < 0:
        row = int(np.argmin(losses))
        raise ValueError(
            f"{what}: expected cross-entropies, at least 0, got {losses[row]} in row {row}"
        )
    return losses


def _assign(recovered: Recovered, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    groups = np.empty(len(points), np.int64)
    for name in np.unique(labels).tolist():
        mine = labels == name
        model = recovered.models[name]
        groups[mine] = model.first + _predict(model, _project(model, points[mine]))
    return groups


def _cross_fitted_losses(points: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    # Each class is dealt out to the folds in turn, so that classes of two and more examples are
    # always in training; a lone example cannot be left out, and is its own.
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    fold %= _FOLDS
    fold[counts[group] == 1] = -1
    losses = np.zeros(len(labels))
    for one in np.unique(fold[fold >= 0]):
        left_out = fold == one
        losses[left_out] = _classifier_losses(
            points[~left_out], labels[~left_out], points[left_out], labels[left_out]
        )
    return losses


def _classifier_losses(
    points: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray
) -> np.ndarray:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        # Losses of an almost minimal classifier serve as well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(points, labels)
    with np.errstate(divide="ignore"):  # a probability that underflows has the logarithm -inf
        log_probabilities = classifier.predict_log_proba(others)
    columns = np.searchsorted(classifier.classes_, other_labels)
    return np.minimum(-log_probabilities[np.arange(len(others)), columns], 700.0)


def _recover_class(
    one: _Class, settings: _Settings, umap: Any, *, first: int
) -> tuple[ClassClusters, np.ndarray, float]:
    """Returns the model of a class, its examples' groups from 0, and their silhouette."""
    points, reducer = one.points, None
    if umap is not None and len(points) > 3:
        # One job: a seed makes UMAP serial, which it warns about unless asked to be.
        reducer = umap(
            n_components=2,
            n_neighbors=min(10, len(points) - 1),
            min_dist=0.0,
            random_state=settings.seed,
            n_jobs=1,
        )
        points = np.asarray(reducer.fit_transform(points), np.float64)
    model = ClassClusters(
        first=first,
        width=one.points.shape[1],
        reducer=reducer,
        base=None,
        centres=np.zeros((1, points.shape[1])),
        pieces=(None,),
        places=np.zeros((1, 1), np.int64),
    )
    one = one._replace(points=points)
    if one.validation_points is not None:
        one = one._replace(validation_points=_project(model, one.validation_points))
    if settings.choice == "silhouette":
        model = _by_silhouette(model, one, settings)
    else:
        model = _by_error(model, one, settings)
    # Numbers in a row: a cluster may have no training example, and then joins the first group.
    present = np.unique(_predict(model, points))
    places = np.where(np.isin(model.places, present), np.searchsorted(present, model.places), 0)
    model = model._replace(places=places.astype(np.int64))
    found = _predict(model, points)
    return model, found, _mean_silhouette(points, found, settings)


def _project(model: ClassClusters, points: np.ndarray) -> np.ndarray:
    if model.reducer is None or not len(points):
        return points
    return np.asarray(model.reducer.transform(points), np.float64)


def _predict(model: ClassClusters, points: np.ndarray) -> np.ndarray:
    """Returns each projected point's group within the class."""
    return model.places[_predict_pieces(model, points)]


def _predict_pieces(model: ClassClusters, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each projected point's cluster, and its piece of the cluster."""
    clusters = np.zeros(len(points), np.int64)
    if model.base is not None and len(points):
        clusters = model.base.predict(points).astype(np.int64)
    found = np.zeros(len(points), np.int64)
    for number, (piece, centre) in enumerate(zip(model.pieces, model.centres, strict=True)):
        mine = clusters == number
        if piece is not None and mine.any():
            found[mine] = piece.predict(points[mine] - centre)
    return clusters, found


def _fit(points: np.ndarray, k: int, settings: _Settings) -> Any:
    """Fits k clusters, or as many as there are different points; None for one."""
    k = min(k, len(np.unique(points, axis=0)))
    if k < 2:
        return None
    options = {"n_init": _INITIALIZATIONS, "random_state": settings.seed}
    if settings.method == "kmeans":
        return KMeans(k, **options).fit(points)
    with warnings.catch_warnings():
        # A mixture that has not quite converged is a clustering all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(k, **options).fit(points)


def _fit_base(
    model: ClassClusters, points: np.ndarray, clusters: int | None, settings: _Settings
) -> ClassClusters:
    """Clusters a class, into as many clusters as have the largest silhouette if not told."""
    base = None
    if clusters is None:
        best = -math.inf
        # A silhouette needs fewer clusters than examples.
        distinct = len(np.unique(points, axis=0))
        for k in range(2, min(settings.max_clusters, distinct - 1) + 1):
            candidate = _fit(points, k, settings)
            score = _mean_silhouette(points, candidate.predict(points), settings)
            if score > best:  # never where it is nan
                best, base = score, candidate
    else:
        base = _fit(points, clusters, settings)
    count = 1
    if base is not None:
        count = base.n_clusters if settings.method == "kmeans" else base.n_components
    return model._replace(
        base=base,
        centres=np.zeros((count, points.shape[1])),
        pieces=(None,) * count,
        places=np.arange(count)[:, None],
    )


def _by_silhouette(model: ClassClusters, one: _Class, settings: _Settings) -> ClassClusters:
    model = _fit_base(model, one.points, settings.clusters, settings)
    factor, losses = settings.overcluster, one.losses
    if factor == 1 or losses is None:
        return model
    clusters, _ = _predict_pieces(model, one.points)
    model = model._replace(
        pieces=tuple(
            _fit(one.points[clusters == number], factor, settings)
            for number in range(len(model.pieces))
        )
    )
    shape = (len(model.pieces), factor)
    cells = _cells(model, one.points, shape)
    counts = np.bincount(cells, minlength=math.prod(shape))
    cluster_loss = np.repeat(_means(losses, clusters, shape[0]), factor)
    before, after = (
        _means(values, cells, len(counts))
        for values in _silhouettes(one.points, (clusters, cells), settings)
    )
    with np.errstate(invalid="ignore"):  # nan: no example, or none drawn; not kept
        keep = (
            (after > np.maximum(before, 0))
            & (_means(losses, cells, len(counts)) >= cluster_loss)
            & (counts >= _minimum_size(len(one.points)))
        )
    if one.validation_points is not None:
        held_out = _cells(model, one.validation_points, shape)
        keep &= np.bincount(held_out, minlength=len(counts)) >= _MINIMUM_SIZE
    # Each cluster has a number for the pieces that are not kept, and then those that are.
    own = np.arange(shape[0])[:, None] * (factor + 1)
    return model._replace(places=np.where(keep.reshape(shape), own + 1 + np.arange(factor), own))


def _by_error(model: ClassClusters, one: _Class, settings: _Settings) -> ClassClusters:
    model = _fit_base(model, one.points, None, settings)
    clusters, _ = _predict_pieces(model, one.points)
    count = len(model.pieces)
    sums = np.zeros((count, one.points.shape[1]))
    np.add.at(sums, clusters, one.points)
    centres = sums / np.maximum(np.bincount(clusters, minlength=count), 1)[:, None]
    cells = settings.cells or min(max(len(one.points) // _CELL_SIZE, _CELLS[0]), _CELLS[1])
    factor = max(_FEWEST_PIECES, cells // count)
    shared = _fit(one.points - centres[clusters], factor, settings)
    model = model._replace(centres=centres, pieces=(shared,) * count)
    shape = (count, factor)
    members = _merge(model, one, shape, settings)
    return model._replace(places=members.reshape(shape))


def _cells(model: ClassClusters, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.ravel_multi_index(_predict_pieces(model, points), shape)


def _means(values: np.ndarray, cells: np.ndarray, count: int) -> np.ndarray:
    """Returns [count]: the mean of each cell's values that are not nan; nan for none."""
    known = ~np.isnan(values)
    number = np.bincount(cells[known], minlength=count)
    with np.errstate(invalid="ignore"):
        return np.bincount(cells[known], weights=values[known], minlength=count) / number


def _merge(
    model: ClassClusters, one: _Class, shape: tuple[int, int], settings: _Settings
) -> np.ndarray:
    """Returns int64 [cells]: a number for each, the same for cells that are merged; -1: empty."""
    count = math.prod(shape)
    cells = _cells(model, one.points, shape)
    sizes = np.bincount(cells, minlength=count)
    sums = np.zeros((count, one.points.shape[1]))
    np.add.at(sums, cells, one.points)
    splits = []
    if one.losses is not None:
        splits.append(_scaled_errors(one.losses, cells, count))
    if one.validation_points is not None and one.validation_losses is not None:
        held_out = _cells(model, one.validation_points, shape)
        splits.append(_scaled_errors(one.validation_losses, held_out, count))
    errors, numbers = (np.stack(figures) for figures in zip(*splits, strict=True))

    members = np.where(sizes > 0, np.arange(count), -1)
    while True:
        alive = np.unique(members[members >= 0])
        if len(alive) <= (settings.clusters or 1):
            return members
        first, second = np.triu_indices(len(alive), k=1)
        # Not a number where a cell has no example in a split, which then tells no difference.
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, doubt = errors[:, alive] / numbers[:, alive], 1 / numbers[:, alive]
            apart = np.abs(mean[:, first] - mean[:, second])
            noise = np.sqrt(doubt[:, first] + doubt[:, second])
            differ = (apart >= settings.gap) & (apart >= settings.significance * noise)
        apart = np.nan_to_num(apart).max(axis=0)
        small = sizes[alive] < _minimum_size(len(one.points))
        differ = differ.any(axis=0)
        if not differ.all():
            cost = np.where(differ, np.inf, pdist(sums[alive] / sizes[alive, None]))
        elif settings.clusters is not None:
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
    """Returns each cell's sum of log odds of error over their deviation in cells, and its size.

    Sums are 0 where no cell has two examples to tell a deviation by.
    """
    errors = _log_odds(losses)
    numbers = np.bincount(cells, minlength=count).astype(np.float64)
    means = _means(errors, cells, count)
    spare = len(cells) - np.count_nonzero(numbers)
    if not spare:
        return np.zeros(count), numbers
    deviation = math.sqrt(float(np.sum((errors - means[cells]) ** 2)) / spare)
    # The floor keeps differences of rounding from counting where cells have no deviation at all.
    return np.bincount(cells, weights=errors, minlength=count) / max(deviation, 1e-6), numbers


def _log_odds(losses: np.ndarray) -> np.ndarray:
    """Returns log((1 - p) / p) of losses -log p, kept within 1e-6 .. 30."""
    return np.log(np.expm1(np.clip(losses, 1e-6, 30.0)))


def _minimum_size(count: int) -> float:
    return max(_MINIMUM_SHARE * count, _MINIMUM_SIZE)


def _silhouettes(
    points: np.ndarray, partitions: tuple[np.ndarray, ...], settings: _Settings
) -> list[np.ndarray]:
    """Returns each point's silhouette in each partition; nan for points not drawn.

    0 in a partition of which only one part was drawn.
    """
    drawn = np.arange(len(points))
    if len(points) > settings.samples:
        generator = np.random.default_rng(settings.seed)
        drawn = np.sort(generator.choice(len(points), settings.samples, replace=False))
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


def _mean_silhouette(points: np.ndarray, labels: np.ndarray, settings: _Settings) -> float:
    """Returns the mean over clusters of their mean silhouette; nan for one cluster."""
    if labels.min() == labels.max():
        return math.nan
    (values,) = _silhouettes(points, (labels,), settings)
    drawn = ~np.isnan(values)
    _, sums, counts = partition.group_sums(values[drawn, None], labels[drawn])
    return float(np.mean(sums[:, 0] / counts))
