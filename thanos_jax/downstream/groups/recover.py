"""Recovers hidden groups by clustering each class, and assigns other examples to them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from thanos_jax.checks import check_floats
from thanos_jax.downstream.arrays import as_points, check_labelled, check_width
from thanos_jax.downstream.groups.classifier_losses import classifier_losses, cross_fitted_losses
from thanos_jax.downstream.groups.clusters import (
    ClassClusters,
    Clustering,
    Examples,
    mean_silhouette,
    umap_class,
)
from thanos_jax.downstream.groups.error import ErrorRule
from thanos_jax.downstream.groups.silhouette import SilhouetteRule

Rule = SilhouetteRule | ErrorRule

# Name of a rule -> its options.
RULES: dict[str, type[SilhouetteRule] | type[ErrorRule]] = {
    "silhouette": SilhouetteRule,
    "error": ErrorRule,
}


class Recovered(NamedTuple):
    """Pseudo-groups within classes, numbered over all classes from 0, class by class.

    Attributes:
      groups: int64 [n], each training example's group.
      validation_groups: int64 [m]; empty without validation embeddings.
      classes: int64 [groups], each group's class, ascending.
      clusters: class -> its number of groups.
      silhouettes: class -> mean over its groups of their mean silhouette in the space that was
        clustered; nan where the class is one group.
      losses: float64 [n], given or from the linear classifier; empty if none were needed.
      models: class -> the fitted model that `assign` uses.
      width: d, the width of the embeddings.
      normalize: whether embeddings are divided by their length first.
    """

    groups: np.ndarray
    validation_groups: np.ndarray
    classes: np.ndarray
    clusters: dict[int, int]
    silhouettes: dict[int, float]
    losses: np.ndarray
    models: dict[int, ClassClusters]
    width: int
    normalize: bool


def recover(
    train_embeddings: Any,
    train_labels: Any,
    validation_embeddings: Any = None,
    validation_labels: Any = None,
    *,
    rule: Rule = SilhouetteRule(),
    clustering: Clustering = Clustering(),
    losses: Any = None,
    validation_losses: Any = None,
    seed: int = 0,
) -> Recovered:
    """Splits each class into groups by clustering its embeddings, without knowing true groups.

    Losses that are needed and not given come from a linear classifier: logistic regression of the
    labels on the standardized embeddings (L2 weight 1/n). Losses of training examples are
    cross-fitted in 5 folds.

    Args:
      train_embeddings: floating point [n, d].
      train_labels: integer [n], the classes, any values.
      validation_embeddings: floating point [m, d], or None.
      validation_labels: integer [m], classes of training.
      rule: what becomes a group: `SilhouetteRule` or `ErrorRule`, with their options.
      clustering: how a class is clustered.
      losses: floating point [n], the cross-entropy of each training example under a classifier
        trained without groups, preferably one that has not seen the example.
      validation_losses: floating point [m], the cross-entropy of each validation example under
        that classifier, for `ErrorRule`; not without `losses`.
      seed: draws initializations, folds and samples.

    Returns:
      The groups, and the models that `assign` uses for other examples. The same arguments give the
      same groups.

    Raises:
      TypeError: embeddings or losses not floating point, labels not integers, or another rule.
      ValueError: a wrong shape, a number not finite or out of range, an unknown option, a
        validation class unknown in training, or no losses where there is one class only.
      MissingDependencyError: projection "umap" without umap-learn.

    Source: Sohoni et al., "No Subclass Left Behind", arXiv 2011.12945. Details that the paper
    leaves open follow its code: 3 initializations, silhouettes above 0, minimum sizes as shares of
    the class, UMAP with 10 neighbours and minimal distance 0. Ours: losses by a linear classifier
    where none are given, silhouettes of a sample, and `ErrorRule`.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule: expected a SilhouetteRule or an ErrorRule, got {rule!r}")
    rule.check()
    clustering.check()
    umap = umap_class() if clustering.projection == "umap" else None

    train, labels = check_labelled(train_embeddings, train_labels, "train_")
    points = as_points(train, normalize=clustering.normalize)
    names = np.unique(labels)
    others = None
    if validation_embeddings is not None:
        held_out, other_labels = check_labelled(
            validation_embeddings, validation_labels, "validation_"
        )
        check_width(held_out, train.shape[1], "validation_embeddings")
        others = as_points(held_out, normalize=clustering.normalize)
        _check_known(other_labels, names, "validation_labels")
    elif validation_labels is not None or validation_losses is not None:
        given = "validation_labels" if validation_labels is not None else "validation_losses"
        raise ValueError(f"{given}: expected None without validation_embeddings, got an array")
    if losses is not None:
        losses = _check_losses(losses, "losses", points)
        validation_losses = _check_losses(validation_losses, "validation_losses", others)
    elif validation_losses is not None:
        raise ValueError("validation_losses: expected None without losses, got an array")
    elif isinstance(rule, ErrorRule) or rule.overcluster > 1:
        if len(names) < 2:
            raise ValueError(
                "losses: expected losses of the training examples, because train_labels have one "
                "class only, which is not enough to train a classifier, got None"
            )
        with _threads(points):
            losses = cross_fitted_losses(points, labels, seed=seed)
            if others is not None and isinstance(rule, ErrorRule):
                validation_losses = classifier_losses(points, labels, others, other_labels)

    everything = Examples(points, losses, others, validation_losses)
    groups = np.empty(len(points), np.int64)
    models: dict[int, ClassClusters] = {}
    silhouettes: dict[int, float] = {}
    sizes: list[int] = []
    for name in names.tolist():
        mine = labels == name
        theirs = None if others is None else other_labels == name
        chosen: list[Any] = [
            None if values is None else values[rows]
            for values, rows in zip(everything, (mine, mine, theirs, theirs), strict=True)
        ]
        with _threads(chosen[0]):
            models[name], groups[mine], silhouettes[name] = _recover_class(
                Examples(*chosen), rule, clustering, umap, first=sum(sizes), seed=seed
            )
        sizes.append(len(np.unique(groups[mine])))
    recovered = Recovered(
        groups=groups,
        validation_groups=np.zeros(0, np.int64),
        classes=np.repeat(names, sizes),
        clusters=dict(zip(names.tolist(), sizes, strict=True)),
        silhouettes=silhouettes,
        losses=np.zeros(0) if losses is None else losses,
        models=models,
        width=points.shape[1],
        normalize=clustering.normalize,
    )
    if others is None:
        return recovered
    found = assign(recovered, validation_embeddings, validation_labels)
    return recovered._replace(validation_groups=found)


def assign(recovered: Recovered, embeddings: Any, labels: Any) -> np.ndarray:
    """Assigns other examples, whose classes are known, to recovered groups.

    Without a projection, training examples get `recovered.groups` again. With UMAP they may get
    other groups, because UMAP projects them again, perhaps to other places.

    Args:
      recovered: from `recover`.
      embeddings: floating point [m, d] of the same encoder.
      labels: integer [m], classes of training.

    Returns:
      int64 [m], numbered as `recovered.groups`.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, or a class unknown in training.
    """
    embeddings, labels = check_labelled(embeddings, labels)
    check_width(embeddings, recovered.width, "embeddings")
    _check_known(labels, np.array(list(recovered.models)), "labels")
    points = as_points(embeddings, normalize=recovered.normalize)
    groups = np.empty(len(points), np.int64)
    for name in np.unique(labels).tolist():
        mine, model = labels == name, recovered.models[name]
        groups[mine] = model.predict(model.project(points[mine]))
    return groups


def _threads(points: np.ndarray) -> threadpool_limits:
    # Threads meet at barriers; few points on a busy machine are faster alone.
    return threadpool_limits(1 if len(points) <= 20_000 else None)


def _check_known(labels: np.ndarray, names: np.ndarray, what: str) -> None:
    unknown = ~np.isin(labels, names)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ValueError(
            f"{what}: expected classes of training, {names.tolist()}, got {labels[row]} in row "
            f"{row}"
        )


def _check_losses(losses: Any, what: str, points: np.ndarray | None) -> np.ndarray | None:
    if losses is None or points is None:
        return None
    losses = check_floats(losses, what, length=len(points))
    if losses.min() < 0:
        row = int(np.argmin(losses))
        raise ValueError(
            f"{what}: expected cross-entropies, at least 0, got {losses[row]} in row {row}"
        )
    return losses


def _recover_class(
    examples: Examples, rule: Rule, clustering: Clustering, umap: Any, *, first: int, seed: int
) -> tuple[ClassClusters, np.ndarray, float]:
    """Returns the model of a class, its examples' groups, and their mean silhouette."""
    points, reducer = examples.points, None
    if umap is not None and len(points) > 3:
        # One job: a seed makes UMAP serial, which it warns about unless asked to be.
        reducer = umap(
            n_components=2,
            n_neighbors=min(10, len(points) - 1),
            min_dist=0.0,
            random_state=seed,
            n_jobs=1,
        )
        points = np.asarray(reducer.fit_transform(points), np.float64)
    model = ClassClusters(
        reducer=reducer,
        base=None,
        centres=np.zeros((1, points.shape[1])),
        pieces=(None,),
        places=np.zeros((1, 1), np.int64),
    )
    examples = examples._replace(points=points)
    if examples.validation_points is not None:
        examples = examples._replace(validation_points=model.project(examples.validation_points))
    model = rule.split(model, examples, clustering, seed)
    # Groups are numbered without gaps: a cluster without training examples joins the first group.
    present = np.unique(model.predict(points))
    places = np.where(np.isin(model.places, present), np.searchsorted(present, model.places), 0)
    model = model._replace(places=first + places.astype(np.int64))
    found = model.predict(points)
    return model, found, mean_silhouette(points, found, clustering.samples, seed)
