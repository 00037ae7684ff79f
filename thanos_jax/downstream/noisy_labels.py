"""Finds wrong labels by their neighbours or strata in embedding space, and suggests others."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, pairwise_distances_argmin_min, roc_auc_score
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from thanos_jax.checks import (
    check_at_least,
    check_flags,
    check_floats,
    check_option,
    check_seed,
    check_share,
)
from thanos_jax.downstream import placing, search
from thanos_jax.downstream.arrays import check_labelled, check_on_devices, unit_rows
from thanos_jax.downstream.placing import Rows
from thanos_jax.downstream.votes import Neighbours, Votes, outvoted, trusted_strata
from thanos_jax.permutations import FLAG_TIES, permutation

METHODS = ("neighbours", "strata")
# How many labels are flagged if no rate is given.
RULES = ("half", "mixture")
_LEAST_ODDS = 1e-3  # suspicion is clipped to this distance from 0 and 1, where odds are infinite


def nearest(embeddings: Any, k: int = 20) -> Neighbours:
    """Finds the k nearest other embeddings by cosine, exactly.

    The search decides which of several equidistant embeddings is the k-th. Time O(n^2 d), in blocks
    of O(n) memory; see `thanos_jax.downstream.search`.

    Args:
      embeddings: floating point [n, d], n at least 2. A jax array whose rows are split over devices
        stays there, and every process of the job makes this call.
      k: at least 1; clipped to n - 1.

    Returns:
      Rows and similarities. An embedding is not its own neighbour; one equal to it is.

    Raises:
      TypeError: embeddings are not floating point.
      ValueError: a wrong shape, embeddings not finite, fewer than two, or k below 1.
    """
    return _take(None, check_on_devices(embeddings, "embeddings", least=2), k)


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

        neighbours  b / (a + b): among the k nearest other embeddings, by cosine, a have the same
                    label and b the most frequent other label. For two classes this is the share of
                    neighbours with another label. weighted=True: each neighbour counts by its
                    cosine, a negative one as 0; where no cosine is above 0 all count alike.
        strata      a / (a + b): a is the distance to the nearest stratum of the label's class, b
                    to the nearest stratum of another class (1/2 if a = b = 0; 0 if there is one
                    class).

    With more than two classes, the share of neighbours with any other label would say less: where
    wrong labels are spread over many classes, most neighbours disagree with a right label, but no
    other label is as frequent.

    A stratum is a k-means cluster of the embeddings of one class, divided by their length; its
    place is their mean. A cluster of wrong labels looks like a rare stratum of the class. A cluster
    is therefore not trusted, and does not count as a stratum, if

        - it has fewer than max(1 % of the class, 3) embeddings, or
        - another label is more frequent than the label of the class among the k nearest neighbours
          of its members, counted over all members together.

    If no cluster of a class is trusted, the one whose neighbours agree the most is kept (ties: the
    largest).

    Args:
      embeddings: floating point [n, d], n at least 2, on devices or not, as for `nearest`. "strata"
        has the rows of one class at a time in memory.
      labels: integer [n], any values.
      method: "neighbours" or "strata".
      k: at least 1; clipped to n - 1.
      weighted: for "neighbours", whether neighbours count by their cosine.
      clusters: number of clusters of each class for "strata", at least 1; clipped to its size.
        More clusters than strata do little harm, fewer hide rare strata.
      seed: of k-means, in [0, 2**32).
      neighbours: from `nearest` of the same embeddings, at least k of each; None: searched.

    Returns:
      float64 [n].

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, an argument out of range, or an unknown
        method.

    Source: Fu, Chen et al., "The Details Matter", doi 10.3390/cmsf2022003004, find noise as a rare
    stratum by its distance in embedding space. Bahri et al., "Deep k-NN for Noisy Labels", ICML
    2020, distrust labels that neighbours outvote. The two scores are ours.
    """
    check_option("method", method, METHODS)
    check_at_least("clusters", clusters, 1)
    if weighted and method != "neighbours":
        raise ValueError(f"weighted: expected False with method={method!r}, got True")
    check_seed(seed, 32)
    embeddings, labels = check_labelled(embeddings, labels, least=2, on_devices=True)
    group = np.unique(labels, return_inverse=True)[1]
    found = _take(neighbours, embeddings, k)
    if method == "strata":
        return _strata_suspicion(embeddings, group, found, clusters, seed)
    return outvoted(Votes(found, group, weighted=weighted))


def flag(
    suspicion: Any, rate: float | None = None, *, rule: str = "half", seed: int = 0
) -> np.ndarray:
    """Flags the labels to distrust.

    Without a rate, the share of flagged labels estimates it, by one of two rules:

        half     labels whose suspicion is above 1/2 are flagged.
        mixture  two Gaussians are fitted to the log odds of suspicion, log(s / (1 - s)). Labels are
                 flagged if they belong to the Gaussian of larger mean with a probability above 1/2
                 and their suspicion is above 1/2. Where classes overlap, many right labels have a
                 suspicion a little above 1/2, and this rule flags fewer of them.

    Args:
      suspicion: floating point [n], finite, from `suspicion`; in [0, 1] for "mixture".
      rate: the share of wrong labels, in [0, 1]: the round(rate n) most suspicious are flagged.
        None: estimated by `rule`.
      rule: "half" or "mixture"; ignored if a rate is given.
      seed: chooses among equally suspicious labels, in [0, 2**64).

    Returns:
      bool [n].

    Raises:
      TypeError: suspicion is not floating point.
      ValueError: not [n] with n at least 1, not finite, or an argument out of range.

    Source: Arazo et al., "Unsupervised Label Noise Modeling and Loss Correction", ICML 2019, and Li
    et al., "DivideMix", ICLR 2020, fit two components to the losses of a classifier. The odds of
    `suspicion` in their place are ours.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.noisy_labels import flag
      >>> flag(np.array([0.2, 0.9, 0.6]))
      array([False,  True,  True])
      >>> flag(np.array([0.2, 0.9, 0.6]), rate=1 / 3)
      array([False,  True, False])
    """
    suspicion = check_floats(suspicion, "suspicion")
    check_option("rule", rule, RULES)
    if rate is None:
        above = suspicion > 0.5
        return above & _of_upper_component(suspicion) if rule == "mixture" else above
    check_share("rate", rate)
    check_seed(seed)
    order = np.lexsort((permutation(seed, FLAG_TIES, len(suspicion)), -suspicion))
    flagged = np.zeros(len(suspicion), bool)
    flagged[order[: round(rate * len(suspicion))]] = True
    return flagged


def _of_upper_component(suspicion: np.ndarray) -> np.ndarray:
    """Returns which log odds belong to the Gaussian of larger mean; all if they do not differ."""
    if suspicion.min() < 0 or suspicion.max() > 1:
        raise ValueError(
            "suspicion: expected numbers from 0 to 1 with rule='mixture', got "
            f"{suspicion.min():g} to {suspicion.max():g}"
        )
    clipped = np.clip(suspicion.astype(np.float64), _LEAST_ODDS, 1 - _LEAST_ODDS)
    odds = np.log(clipped / (1 - clipped))
    start = np.quantile(odds, (0.25, 0.95))
    if start[0] == start[1]:
        return np.ones(len(odds), bool)
    # One thread: several would add up in varying order.
    with threadpool_limits(1):
        mixture = GaussianMixture(
            2,
            means_init=start[:, None],
            weights_init=(0.8, 0.2),
            precisions_init=np.full((2, 1, 1), 1 / odds.var()),
            reg_covar=1e-2,
            max_iter=1000,
        )
        upper = int(np.argmax(mixture.fit(odds[:, None]).means_))
        probable = mixture.predict_proba(odds[:, None])[:, upper] > 0.5
    low, high = np.sort(mixture.means_[:, 0])
    # Outside of the two means the wider Gaussian wins, whichever it is.
    return (odds > low) & (probable | (odds > high))


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

    The k nearest other embeddings vote, except the ones whose labels are not trusted. A label is
    kept if no other has more votes, or if no neighbour is trusted. Among other classes with equally
    many votes the lowest is taken. To change flagged labels only:

        np.where(flagged, suggest(embeddings, labels, trusted=~flagged), labels)

    Args:
      embeddings: floating point [n, d], n at least 2, on devices or not, as for `nearest`.
      labels: integer [n], any values.
      k: at least 1; clipped to n - 1.
      weighted: a vote counts by its cosine, a negative one as 0.
      trusted: bool [n]; None: labels whose `suspicion` by "neighbours" is at most 1/2.
      neighbours: from `nearest` of the same embeddings, at least k of each; None: searched.

    Returns:
      int64 [n].

    Raises:
      TypeError: embeddings are not floating point, labels not integers, or trusted not bool.
      ValueError: a wrong shape, embeddings not finite, or an argument out of range.
    """
    embeddings, labels = check_labelled(embeddings, labels, least=2, on_devices=True)
    if trusted is not None:
        trusted = check_flags(trusted, "trusted", (len(labels),))
    found = _take(neighbours, embeddings, k)
    names, group = np.unique(labels, return_inverse=True)
    if trusted is None:
        trusted = ~flag(outvoted(Votes(found, group, weighted=weighted)))
    suggested = labels.copy()
    for rows, votes in Votes(found, group, weighted=weighted, trusted=trusted).blocks():
        keep = votes[np.arange(len(rows)), group[rows]] >= votes.max(axis=1)
        suggested[rows] = np.where(keep, labels[rows], names[np.argmax(votes, axis=1)])
    return suggested


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
      changed: bool [n], which labels are wrong.

    Returns:
      The figures above by name, each a fraction of 1.

    Raises:
      TypeError: suspicion is not floating point, or flagged or changed not bool.
      ValueError: wrong shapes, no labels, or suspicion not finite.
    """
    suspicion = check_floats(suspicion, "suspicion")
    flagged = check_flags(flagged, "flagged", suspicion.shape)
    changed = check_flags(changed, "changed", suspicion.shape)
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


def _strata_suspicion(
    embeddings: Rows, group: np.ndarray, found: Neighbours, clusters: int, seed: int
) -> np.ndarray:
    own, other = np.zeros(len(group)), np.full(len(group), np.inf)
    votes = Votes(found, group, weighted=False)
    # One thread: several would add up in varying order, and the classes are small.
    with threadpool_limits(1):
        places = []
        for index in range(votes.classes):
            rows = np.flatnonzero(group == index)
            members = unit_rows(placing.take(embeddings, rows))
            places.append(trusted_strata(members, votes, rows, clusters, seed))
        for where, some in placing.host_blocks(embeddings):
            unit = unit_rows(some)
            for index, strata in enumerate(places):
                distances = pairwise_distances_argmin_min(unit, strata)[1]
                mine = group[where] == index
                own[where][mine] = distances[mine]
                nearer = np.minimum(other[where], distances)
                other[where] = np.where(mine, other[where], nearer)
    total = own + other
    suspicion = np.where(total > 0, own / np.where(total > 0, total, 1), 0.5)
    return placing.of_all_rows(embeddings, suspicion)


def _take(neighbours: Neighbours | None, embeddings: Rows, k: int) -> Neighbours:
    """Returns the k nearest of the given neighbours, or searches."""
    check_at_least("k", k, 1)
    count = len(embeddings)
    k = min(k, count - 1)
    if neighbours is None:
        if isinstance(embeddings, np.ndarray):
            unit = placing.aligned(embeddings.shape, embeddings.dtype)
            for where, rows in placing.host_blocks(embeddings):
                unit[where] = unit_rows(rows)
            embeddings = unit
        # One more than k, because each row is its own nearest. If ties push it out, drop the last.
        found = search.search(embeddings, embeddings, k + 1)
        itself = found.indices == np.arange(count)[:, None]
        itself[~itself.any(axis=1), k] = True
        indices, squares = (each[~itself].reshape(count, k) for each in found)
        return Neighbours(indices, 1 - squares / 2)
    shape = neighbours.indices.shape
    if shape[0] != count or shape[1] < k:
        raise ValueError(
            f"neighbours: expected at least {k} of each of the {count} embeddings, "
            f"got indices of shape {shape}"
        )
    return Neighbours(neighbours.indices[:, :k], neighbours.similarities[:, :k])
