"""Wrong labels: made on purpose, found again by where embeddings lie, and mended."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, pairwise_distances_argmin_min, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from thanos_jax.downstream.arrays import check_embeddings, check_labels, unit_rows
from thanos_jax.permutations import CHANGED_LABELS, FLAG_TIES, NEW_LABELS, permutation

KINDS = ("symmetric", "asymmetric", "within_class")
METHODS = ("neighbours", "strata")

_INITIALIZATIONS = 3
_MINIMUM_SHARE = 0.01
_MINIMUM_SIZE = 3


class Neighbours(NamedTuple):
    """The nearest other embeddings of each embedding, nearest first.

    Attributes:
      indices: int64 [n, k], rows.
      similarities: float64 [n, k], 1 - |z - z'|^2 / 2 of the embeddings divided by their length:
        the cosine, or 1/2 to a zero embedding, which stays zero.
    """

    indices: np.ndarray
    similarities: np.ndarray


def corrupt(
    labels: Any,
    rate: float,
    kind: str = "symmetric",
    *,
    num_classes: int,
    seed: int,
    fine: Any = None,
    transition: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Makes a share of the labels wrong.

        symmetric     another class, each of the num_classes - 1 others with equal probability.
        asymmetric    the next class, of the last class the first; or the class transition[label].
        within_class  another fine label of the same coarse class, each with equal probability: for
                      training on fine labels. `labels` are coarse and stay as they are.

    A changed label is always another one: at rate 1 every label is wrong, and the share of wrong
    labels is the rate. (Under the other convention for symmetric noise a chosen label is drawn
    anew from all classes, and rate (num_classes - 1) / num_classes of them are wrong.)

    Of m labels that have another to change to, exactly round(rate m) change, drawn uniformly
    (halves round to the even number). m is n but for classes that `transition` maps to themselves
    and for coarse classes of one fine label. With the same seed, labels changed at a lower rate
    are changed at a higher one too, to the same class. The draw is the same under every NumPy.

    Args:
      labels: integer [n], 0 to num_classes - 1.
      rate: in [0, 1].
      kind: "symmetric", "asymmetric" or "within_class".
      num_classes: of `labels`, at least 1; a class need not occur.
      seed: in [0, 2**64).
      fine: for "within_class" only, integer [n], any values. The fine labels of a coarse class are
        those that occur with it.
      transition: for "asymmetric" only, integer [num_classes], 0 to num_classes - 1; a class mapped
        to itself keeps its labels.

    Returns:
      int64 [n], the noisy labels (of "within_class" the noisy fine labels); bool [n], changed.

    Raises:
      TypeError: labels, fine or transition are not integers.
      ValueError: an argument out of range, of the wrong shape or not meant for this kind; or a
        rate above 0 where no label has another to change to.
    """
    _check_option("kind", kind, KINDS)
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    _check_rate(rate)
    _check_seed(seed, 64)
    for name, value, owner in (
        ("fine", fine, "within_class"),
        ("transition", transition, "asymmetric"),
    ):
        if value is not None and kind != owner:
            raise ValueError(f"{name}: expected None with kind={kind!r}, only {owner!r} takes it")
    length = np.size(labels)
    if length == 0:
        raise ValueError("labels: expected at least one label, got none")
    labels = check_labels(labels, "labels", length=length, num_classes=num_classes)

    if kind == "within_class":
        if fine is None:
            raise ValueError("fine: expected the fine labels with kind='within_class', got None")
        before = check_labels(fine, "fine", length=length, num_classes=None)
    else:
        before = labels
    words = np.random.Philox(key=np.array([seed, NEW_LABELS], np.uint64)).random_raw(length)
    after = _targets(labels, before, kind, num_classes, transition, words)
    can_change = np.flatnonzero(after != before)
    if rate > 0 and can_change.size == 0:
        raise ValueError(f"rate: expected 0, for no label has another to change to, got {rate}")
    changed = np.zeros(length, bool)
    if can_change.size:
        order = permutation(seed, CHANGED_LABELS, len(can_change))
        changed[can_change[order[: round(rate * len(can_change))]]] = True
    return np.where(changed, after, before), changed


def nearest(embeddings: Any, k: int = 20) -> Neighbours:
    """Finds the k nearest other embeddings by cosine, exactly.

    Which of several equidistant embeddings is the k-th is left to the search. Time O(n^2 d), in
    blocks of O(n) memory.

    Args:
      embeddings: floating point [n, d], n at least 2.
      k: at least 1, and taken to be n - 1 at most.

    Returns:
      Rows and similarities. An embedding is not its own neighbour; one equal to it is.

    Raises:
      TypeError: embeddings are not floating point.
      ValueError: a wrong shape, embeddings not finite, fewer than two, or k below 1.
    """
    return _nearest(_unit(embeddings), k)


def suspicion(
    embeddings: Any,
    labels: Any,
    *,
    method: str = "neighbours",
    k: int = 20,
    weighted: bool = False,
    clusters: int = 20,
    seed: int = 0,
    neighbours: Neighbours | None = None,
) -> np.ndarray:
    """Scores how likely each label is wrong: from 0 to 1, above 1/2 where another class is nearer.

        neighbours  b / (a + b): of the k nearest other embeddings, by cosine, a bear the same
                    label and b the most frequent other label. For two classes, the share of
                    neighbours with another label. weighted=True: each counts by its cosine, a
                    negative one as 0; where no cosine is above 0 all count alike.
        strata      a / (a + b), a the distance to the nearest stratum of the label's class, b to
                    the nearest of another class (1/2 if a = b = 0; 0 if there is one class).

    Of more than two classes, the share of neighbours with any other label says less: wrong labels
    spread over many classes make most neighbours disagree with a right one, though none of those
    labels is as frequent as its own.

    A stratum is a cluster by k-means within a class, of embeddings divided by their length, and its
    place their mean. A wrong label looks like a rare stratum of the class it names, so that wrong
    labels that lie together would make a stratum of their own; not trusted, and no stratum, is
    therefore a cluster

        - of fewer than max(1 % of the class, 3) embeddings, or
        - whose members' k nearest neighbours, all members' together, bear some other label more
          often than that of the class.

    Of a class without a trusted cluster the one is kept whose neighbours agree the most (of equal
    ones the largest).

    Args:
      embeddings: floating point [n, d], n at least 2.
      labels: integer [n], any values.
      method: "neighbours" or "strata".
      k: at least 1, and taken to be n - 1 at most.
      weighted: of "neighbours".
      clusters: of each class for "strata", at least 1, at most its members. More strata than there
        are do little harm, fewer hide rare ones.
      seed: of k-means, in [0, 2**32).
      neighbours: from `nearest` of the same embeddings, at least k of each, if at hand.

    Returns:
      float64 [n].

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, an argument out of range, or an unknown
        method.

    Source: that noise is to be found as a rare stratum by its distance in embedding space is from
    Fu, Chen et al., "The Details Matter", doi 10.3390/cmsf2022003004; these two scores are ours.
    Distrust of labels that neighbours outvote is from Bahri et al., "Deep k-NN for Noisy Labels",
    ICML 2020.
    """
    _check_option("method", method, METHODS)
    if clusters < 1:
        raise ValueError(f"clusters: expected at least 1, got {clusters}")
    if weighted and method != "neighbours":
        raise ValueError(f"weighted: expected False with method={method!r}, got True")
    _check_seed(seed, 32)
    unit = _unit(embeddings)
    labels = check_labels(labels, "labels", length=len(unit), num_classes=None)
    group = np.unique(labels, return_inverse=True)[1]
    found = _take(neighbours, unit, k)
    if method == "strata":
        return _strata_suspicion(unit, group, _votes(found, group, weighted=False), clusters, seed)
    return _outvoted(_votes(found, group, weighted=weighted), group)


def flag(suspicion: Any, rate: float | None = None, *, seed: int = 0) -> np.ndarray:
    """Decides which labels to distrust.

    Args:
      suspicion: floating point [n], finite, from `suspicion`.
      rate: the share of wrong labels, in [0, 1]: the round(rate n) most suspicious are flagged.
        None: those above 1/2, where another class is nearer; their share estimates the rate.
      seed: chooses among equals at the end of those flagged, in [0, 2**64).

    Returns:
      bool [n].

    Raises:
      TypeError: suspicion is not floating point.
      ValueError: not [n] with n at least 1, not finite, or a rate out of range.
    """
    suspicion = _check_suspicion(suspicion)
    if rate is None:
        return suspicion > 0.5
    _check_rate(rate)
    _check_seed(seed, 64)
    order = np.lexsort((permutation(seed, FLAG_TIES, len(suspicion)), -suspicion))
    flagged = np.zeros(len(suspicion), bool)
    flagged[order[: round(rate * len(suspicion))]] = True
    return flagged


def suggest(
    embeddings: Any,
    labels: Any,
    *,
    k: int = 20,
    weighted: bool = False,
    trusted: Any = None,
    neighbours: Neighbours | None = None,
) -> np.ndarray:
    """Suggests a label for each embedding: the majority among its trusted neighbours.

    Of the k nearest other embeddings those whose labels are not trusted have no vote. A label is
    kept where it has as many votes as any, and where no neighbour is trusted; of other classes with
    equally many votes the lowest is taken. To mend only what was flagged:

        np.where(flagged, suggest(embeddings, labels, trusted=~flagged), labels)

    Args:
      embeddings: floating point [n, d], n at least 2.
      labels: integer [n], any values.
      k: at least 1, and taken to be n - 1 at most.
      weighted: a vote counts by its cosine, a negative one as 0.
      trusted: bool [n]; None: those of `suspicion` by "neighbours" of at most 1/2.
      neighbours: from `nearest` of the same embeddings, at least k of each, if at hand.

    Returns:
      int64 [n].

    Raises:
      TypeError: embeddings are not floating point, labels not integers, or trusted not bool.
      ValueError: a wrong shape, embeddings not finite, or an argument out of range.
    """
    unit = _unit(embeddings)
    labels = check_labels(labels, "labels", length=len(unit), num_classes=None)
    if trusted is not None:
        trusted = _check_flags(trusted, "trusted", length=len(unit))
    found = _take(neighbours, unit, k)
    names, group = np.unique(labels, return_inverse=True)
    if trusted is None:
        trusted = ~flag(_outvoted(_votes(found, group, weighted=weighted), group))
    votes = _votes(found, group, weighted=weighted, trusted=trusted)
    keep = votes[np.arange(len(labels)), group] >= votes.max(axis=1)
    return np.where(keep, labels, names[np.argmax(votes, axis=1)])


def detection_scores(suspicion: Any, flagged: Any, changed: Any) -> dict[str, float]:
    """Compares suspicion and flags with the labels that are known to be wrong.

        precision          share of the flagged labels that are wrong; left out if none is flagged
        recall             share of the wrong labels that are flagged; left out if none is wrong
        auroc              probability that a wrong label is more suspicious than a right one, ties
                           counting half; left out if all labels are wrong, or none
        average_precision  precision averaged over the wrong labels, flagging from the most
                           suspicious down to each; left out if none is wrong
        flagged            share of the labels flagged
        changed            share of the labels that are wrong: precision and average_precision at
                           random

    Args:
      suspicion: floating point [n], finite.
      flagged: bool [n].
      changed: bool [n], from `corrupt`.

    Returns:
      The figures above by name, each a fraction of 1.

    Raises:
      TypeError: suspicion is not floating point, or flagged or changed not bool.
      ValueError: wrong shapes, no labels, or suspicion not finite.
    """
    suspicion = _check_suspicion(suspicion)
    flagged = _check_flags(flagged, "flagged", length=len(suspicion))
    changed = _check_flags(changed, "changed", length=len(suspicion))
    hits = np.count_nonzero(flagged & changed)
    found: dict[str, float] = {}
    if flagged.any():
        found["precision"] = float(hits / np.count_nonzero(flagged))
    if changed.any():
        found["recall"] = float(hits / np.count_nonzero(changed))
        if not changed.all():
            found["auroc"] = float(roc_auc_score(changed, suspicion))
        found["average_precision"] = float(average_precision_score(changed, suspicion))
    return {**found, "flagged": float(flagged.mean()), "changed": float(changed.mean())}


def _targets(
    labels: np.ndarray,
    before: np.ndarray,
    kind: str,
    num_classes: int,
    transition: Any,
    words: np.ndarray,
) -> np.ndarray:
    """Returns int64 [n], what each label changes to if it does; itself where there is no other."""
    if kind == "symmetric":
        return _another(labels, num_classes, words)
    if kind == "asymmetric":
        if transition is None:
            return (labels + 1) % num_classes
        classes = check_labels(
            transition, "transition", length=num_classes, num_classes=num_classes
        )
        return classes[labels]
    after = before.copy()
    for coarse in np.unique(labels):
        mine = labels == coarse
        names, place = np.unique(before[mine], return_inverse=True)
        after[mine] = names[_another(place, len(names), words[mine])]
    return after


def _another(place: np.ndarray, count: int, words: np.ndarray) -> np.ndarray:
    """Returns int64 [n], of 0 .. count - 1 another than place, drawn by 64 random bits of each."""
    shift = 1 + (words % np.uint64(max(count - 1, 1))).astype(np.int64)
    return (place + shift) % count


def _votes(
    found: Neighbours, group: np.ndarray, *, weighted: bool, trusted: np.ndarray | None = None
) -> np.ndarray:
    """Returns float64 [n, classes], how many neighbours bear each label, or the sum of cosines."""
    weights = np.ones(found.indices.shape)
    if weighted:
        weights = np.maximum(found.similarities, 0)
        weights[weights.sum(axis=1) == 0] = 1
    if trusted is not None:
        weights = weights * trusted[found.indices]
    num_classes = int(group.max()) + 1
    cells = np.arange(len(group))[:, None] * num_classes + group[found.indices]
    counts = np.bincount(cells.ravel(), weights.ravel(), minlength=len(group) * num_classes)
    return counts.reshape(len(group), num_classes)


def _outvoted(votes: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Returns float64 [n], b / (a + b) of the votes a for the own label, b for the next rival."""
    rows = np.arange(len(group))
    own = votes[rows, group]
    others = votes.copy()
    others[rows, group] = 0
    rival = others.max(axis=1)
    return rival / (own + rival)


def _strata_suspicion(
    unit: np.ndarray, group: np.ndarray, votes: np.ndarray, clusters: int, seed: int
) -> np.ndarray:
    own, other = np.empty(len(unit)), np.full(len(unit), np.inf)
    # Threads would add up in an order of their own, and the classes are small.
    with threadpool_limits(1):
        for index in range(votes.shape[1]):
            mine = group == index
            places = _trusted_strata(unit[mine], votes[mine], index, clusters, seed)
            distances = pairwise_distances_argmin_min(unit, places)[1]
            own[mine] = distances[mine]
            other[~mine] = np.minimum(other[~mine], distances[~mine])
    total = own + other
    return np.where(total > 0, own / np.where(total > 0, total, 1), 0.5)


def _trusted_strata(
    members: np.ndarray, votes: np.ndarray, index: int, clusters: int, seed: int
) -> np.ndarray:
    """Returns [strata, d], at least one, of the members of class `index`."""
    clusters = min(clusters, len(members))
    with warnings.catch_warnings():
        # Members of a collapsed class coincide; fewer clusters are found then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(clusters, n_init=_INITIALIZATIONS, random_state=seed).fit(members)
    counts = np.bincount(model.labels_, minlength=clusters)
    totals = np.zeros((clusters, votes.shape[1]))
    np.add.at(totals, model.labels_, votes)
    agree = totals[:, index]
    large = counts >= max(_MINIMUM_SHARE * len(members), _MINIMUM_SIZE)
    trusted = large & (agree >= totals.max(axis=1))
    if not trusted.any():
        shares = agree / np.maximum(totals.sum(axis=1), 1)
        trusted[np.lexsort((-counts, -shares))[0]] = True
    return model.cluster_centers_[trusted]


def _unit(embeddings: Any) -> np.ndarray:
    embeddings = check_embeddings(embeddings, "embeddings")
    if len(embeddings) < 2:
        raise ValueError("embeddings: expected at least 2 rows, got 1")
    return unit_rows(embeddings)


def _nearest(unit: np.ndarray, k: int) -> Neighbours:
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    # Of unit vectors, the nearest by Euclidean distance are the nearest by cosine.
    search = NearestNeighbors(n_neighbors=min(k, len(unit) - 1), algorithm="brute").fit(unit)
    distances, indices = search.kneighbors()  # of all rows, each without itself
    return Neighbours(indices, 1 - distances.astype(np.float64) ** 2 / 2)


def _take(neighbours: Neighbours | None, unit: np.ndarray, k: int) -> Neighbours:
    """Returns the k nearest of those at hand, or searches."""
    if neighbours is None:
        return _nearest(unit, k)
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    k = min(k, len(unit) - 1)
    shape = neighbours.indices.shape
    if shape[0] != len(unit) or shape[1] < k:
        raise ValueError(
            f"neighbours: expected at least {k} of each of the {len(unit)} embeddings, "
            f"got indices of shape {shape}"
        )
    return Neighbours(neighbours.indices[:, :k], neighbours.similarities[:, :k])


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {known}, got {value!r}")


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a share in [0, 1], got {rate}")


def _check_seed(seed: int, bits: int) -> None:
    if not 0 <= seed < 2**bits:
        raise ValueError(f"seed: expected at least 0 and below 2**{bits}, got {seed}")


def _check_suspicion(suspicion: Any) -> np.ndarray:
    array = np.asarray(suspicion)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"suspicion: expected floating point [n], got dtype {array.dtype}")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"suspicion: expected [n] with n >= 1, got shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"suspicion: expected finite numbers, got {array[row]} in row {row}")
    return array


def _check_flags(values: Any, what: str, *, length: int) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise TypeError(f"{what}: expected bool [{length}], got dtype {array.dtype}")
    if array.shape != (length,):
        raise ValueError(f"{what}: expected shape ({length},), got shape {array.shape}")
    return array
