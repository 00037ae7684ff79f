"""Recovers hidden groups: each class is clustered by a rule, and other examples are assigned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from thanos_jax.checks import check_floats, check_labels
from thanos_jax.downstream.arrays import (
    check_embeddings,
    check_labelled,
    check_width,
    unit_rows,
)
from thanos_jax.downstream.groups.classifier_losses import classifier_losses, cross_fitted_losses
from thanos_jax.downstream.groups.clusters import (
    ClassClusters,
    ClassExamples,
    Clustering,
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
    """Splits each class into groups by clustering its embeddings; true groups are not looked at.

    A linear classifier supplies losses that are needed and not given: logistic regression of the
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
        trained without groups, best one that has not seen the example.
      validation_losses: floating point [m], the cross-entropy of each validation example under
        that classifier, for `ErrorRule`; not without `losses`.
      seed: draws initializations, folds and samples.

    Returns:
      Groups, and what `assign` needs to find those of other examples. The same arguments give the
      same groups.

    Raises:
      TypeError: embeddings or losses not floating point, labels not integers, or another rule.
      ValueError: a wrong shape, a number not finite or out of range, an unknown option, a
        validation class unknown in training, or no losses where there is one class only.
      MissingDependencyError: projection "umap" without umap-learn.

    Source: Sohoni et al., "No Subclass Left Behind", arXiv 2011.12945. What it leaves open is as in
    its code: 3 initializations, silhouettes above 0, size shares of the class, UMAP with 10
    neighbours and minimal distance 0. Ours: losses by a linear classifier where none are given,
    silhouettes of a sample, and `ErrorRule`.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule: expected a SilhouetteRule or an ErrorRule, got {rule!r}")
    rule.check()
    clustering.check()
    umap = umap_class() if clustering.projection == "umap" else None

    def known(split: str, embeddings: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = check_labelled(split, embeddings, labels)
        points = rows.astype(np.float64)
        return (unit_rows(points) if clustering.normalize else points), labels

    points, labels = known("train", train_embeddings, train_labels)
    names = np.unique(labels)
    validation = None
    if validation_embeddings is not None:
        validation = known("validation", validation_embeddings, validation_labels)
        check_width(validation[0], points.shape[1], "validation_embeddings")
        _check_known(validation[1], names, "validation_labels")
    elif validation_labels is not None or validation_losses is not None:
        given = "validation_labels" if validation_labels is not None else "validation_losses"
        raise ValueError(f"{given}: expected None without validation_embeddings, got an array")
    if losses is not None:
        losses = _check_losses(losses, "losses", length=len(points))
        if validation is not None and validation_losses is not None:
            validation_losses = _check_losses(
                validation_losses, "validation_losses", length=len(validation[0])
            )
    elif validation_losses is not None:
        raise ValueError("validation_losses: expected None without losses, got an array")
    elif rule.needs_losses:
        if len(names) < 2:
            raise ValueError(
                "losses: expected losses of the training examples, for train_labels are of one "
                "class and leave a classifier nothing to tell apart, got None"
            )
        with _threads(points):
            losses = cross_fitted_losses(points, labels, seed=seed)
            if validation is not None and isinstance(rule, ErrorRule):
                validation_losses = classifier_losses(points, labels, *validation)

    groups = np.empty(len(points), np.int64)
    models: dict[int, ClassClusters] = {}
    silhouettes: dict[int, float] = {}
    sizes: list[int] = []
    for name in names.tolist():
        mine = labels == name
        examples = ClassExamples(points[mine], None if losses is None else losses[mine])
        if validation is not None:
            held_out = validation[1] == name
            examples = examples._replace(validation_points=validation[0][held_out])
            if validation_losses is not None:
                examples = examples._replace(validation_losses=validation_losses[held_out])
        with _threads(examples.points):
            model, found, silhouettes[name] = _recover_class(
                examples, rule, clustering, umap, first=sum(sizes), seed=seed
            )
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
        normalize=clustering.normalize,
    )
    if validation is None:
        return recovered
    return recovered._replace(validation_groups=_assign(recovered, *validation))


def assign(recovered: Recovered, embeddings: Any, labels: Any) -> np.ndarray:
    """Finds the groups of other examples, whose classes are known.

    Without a projection the training examples get `recovered.groups` again. UMAP places an example
    anew, and may place it elsewhere.

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
    points = check_embeddings(embeddings, "embeddings").astype(np.float64)
    labels = check_labels(labels, "labels", length=len(points))
    width = next(iter(recovered.models.values())).width
    check_width(points, width, "embeddings")
    _check_known(labels, np.array(list(recovered.models)), "labels")
    return _assign(recovered, unit_rows(points) if recovered.normalize else points, labels)


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


def _check_losses(losses: Any, what: str, *, length: int) -> np.ndarray:
    losses = check_floats(losses, what, length=length)
    if losses.min() < 0:
        row = int(np.argmin(losses))
        raise ValueError(
            f"{what}: expected cross-entropies, at least 0, got {losses[row]} in row {row}"
        )
    return losses


def _recover_class(
    examples: ClassExamples, rule: Rule, clustering: Clustering, umap: Any, *, first: int, seed: int
) -> tuple[ClassClusters, np.ndarray, float]:
    """Returns the model of a class, its examples' groups from 0, and their silhouette."""
    points, reducer = examples.points, None
    width = points.shape[1]
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
        first=first,
        width=width,
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
    # Numbers in a row: a cluster may have no training example, and then joins the first group.
    present = np.unique(model.predict(points))
    places = np.where(np.isin(model.places, present), np.searchsorted(present, model.places), 0)
    model = model._replace(places=places.astype(np.int64))
    found = model.predict(points)
    return model, found, mean_silhouette(points, found, clustering.samples, seed)


def _assign(recovered: Recovered, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    groups = np.empty(len(points), np.int64)
    for name in np.unique(labels).tolist():
        mine = labels == name
        model = recovered.models[name]
        groups[mine] = model.first + model.predict(model.project(points[mine]))
    return groups
