"""Coresets: choose the training images to keep when only a fraction may be kept."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from thanos_jax.checks import (
    check_at_least,
    check_flags,
    check_floats,
    check_labels,
    check_option,
    check_seed,
)
from thanos_jax.downstream.arrays import check_labelled, check_probabilities
from thanos_jax.downstream.partition import in_groups
from thanos_jax.downstream.placing import Rows
from thanos_jax.downstream.points import Points
from thanos_jax.permutations import CORESET_TIES, HALVES, permutation

METHODS = ("random", "herding")
DROPS = ("lowest", "highest")


def halves(labels: Any, runs: int, seed: int = 0) -> np.ndarray:
    """Draws the training samples for `common_strata_scores`: random halves and their complements.

    Run 2j trains on a random half of every class and run 2j + 1 on the other half, so that each
    image is in the sample of half of the runs. The halves of a class of odd size differ by one
    image. The draw does not depend on the version of NumPy.

    Args:
      labels: integer [n], any values.
      runs: even, at least 2.
      seed: in [0, 2**64).

    Returns:
      bool [runs, n], True where a run trains on an image.

    Raises:
      TypeError: labels are not integers.
      ValueError: labels not [n] with n at least 1, or runs or seed out of range.
    """
    labels = check_labels(labels, "labels", least=1)
    if runs < 2 or runs % 2:
        raise ValueError(f"runs: expected an even number of at least 2, got {runs}")
    check_seed(seed)
    trained_on = np.zeros((runs, len(labels)), bool)
    for pair in range(runs // 2):
        order = permutation(seed, HALVES + pair, len(labels))
        # Shuffled and then sorted by class, every second image is a random half of its class.
        order = order[np.argsort(labels[order], kind="stable")]
        trained_on[2 * pair, order[::2]] = True
        trained_on[2 * pair + 1, order[1::2]] = True
    return trained_on


def common_strata_scores(confidences: Any, trained_on: Any) -> np.ndarray:
    """Scores how much a prediction for an image depends on training on that image.

        |mean over runs trained on i of c_ri - mean over the other runs of c_ri|

    c_ri is the confidence of run r in the label of image i: its probability, or whether the
    prediction is right. A small score means that the prediction hardly depends on training on the
    image: other images of its stratum teach its label, as in a common stratum. A large score means
    that only the image itself teaches its label, as in a rare stratum, or where the label is wrong.
    Dropping the lowest scores first drops images of common strata first. An image that is never
    predicted rightly scores 0 as well.

    Args:
      confidences: floating point [runs, n], in [0, 1]; or bool [runs, n], right or not. Every run
        predicts all images.
      trained_on: bool [runs, n], the samples, as from `halves`. Every image is in the sample of at
        least one run and missing from the sample of at least one.

    Returns:
      float64 [n], from 0 to 1.

    Raises:
      TypeError: arguments of another dtype.
      ValueError: wrong or different shapes, confidences out of range, or an image that all runs or
        none trained on; names the first.

    Source: the idea is from Fu, Chen et al., "The Details Matter", doi 10.3390/cmsf2022003004. The
    formula is ours, because we could not get the paper's. Without the absolute value it is the
    memorization score of Feldman and Zhang, "What Neural Networks Memorize and Why", arXiv
    2008.03703.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.coreset import common_strata_scores
      >>> confidences = np.array([[0.9, 0.9], [0.9, 0.2]])  # of two runs, for two images
      >>> trained_on = np.array([[True, True], [False, False]])
      >>> common_strata_scores(confidences, trained_on)  # others teach the first image's label
      array([0. , 0.7])
    """
    confidences = np.asarray(confidences)
    if confidences.dtype != np.bool_ and not jnp.issubdtype(confidences.dtype, jnp.floating):
        raise TypeError(
            f"confidences: expected floating point or bool [runs, n], got dtype {confidences.dtype}"
        )
    if confidences.ndim != 2 or 0 in confidences.shape:
        raise ValueError(f"confidences: expected [runs, n], got shape {confidences.shape}")
    confidences = confidences.astype(np.float64)
    inside = (confidences >= 0) & (confidences <= 1 + 1e-6)  # a softmax rounds
    if not inside.all():
        run, image = np.argwhere(~inside)[0]
        raise ValueError(
            f"confidences: expected numbers in [0, 1], got {confidences[run, image]} of image "
            f"{image} in run {run}"
        )
    trained_on = check_flags(trained_on, "trained_on", confidences.shape)
    counts = trained_on.sum(axis=0)
    one_sided = (counts == 0) | (counts == len(trained_on))
    if one_sided.any():
        image = int(np.argmax(one_sided))
        raise ValueError(
            "trained_on: expected each image in the sample of some runs and not of others, "
            f"got image {image} in {counts[image]} of {len(trained_on)} "
            f"({np.count_nonzero(one_sided)} such images)"
        )
    inner = np.sum(confidences, axis=0, where=trained_on) / counts
    outer = np.sum(confidences, axis=0, where=~trained_on) / (len(trained_on) - counts)
    return np.abs(inner - outer)


def forgetting_events(correct: Any) -> np.ndarray:
    """Counts how often an image was right at one epoch and wrong at the next.

    Args:
      correct: bool [epochs, n], whether each image was classified rightly, in the order of time.

    Returns:
      int64 [n]. An image that was never right gets the number of epochs, which exceeds every other
      possible count.

    Raises:
      TypeError: correct is not bool.
      ValueError: not [epochs, n], or empty.

    Source: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network
    Learning", ICLR 2019, arXiv 1812.05159. Images that were never right are counted as in the
    authors' code. Counts of several runs may be added up.
    """
    correct = check_flags(correct, "correct")
    if correct.ndim != 2 or 0 in correct.shape:
        raise ValueError(f"correct: expected [epochs, n], got shape {correct.shape}")
    events = np.count_nonzero(correct[:-1] & ~correct[1:], axis=0)
    return np.where(correct.any(axis=0), events, len(correct)).astype(np.int64)


def el2n(probabilities: Any, labels: Any) -> np.ndarray:
    """Computes EL2N scores: the error norm |p - one-hot label|, averaged over runs.

    Args:
      probabilities: floating point [n, classes] or [runs, n, classes], of an early epoch; finite,
        and the sum of a row is 1 (to 1 %). The authors average 10 runs.
      labels: integer [n], 0 to classes - 1.

    Returns:
      float64 [n], from 0 to the square root of 2.

    Raises:
      TypeError: probabilities are not floating point, or labels not integers.
      ValueError: a wrong shape, a label out of range, or rows that are no probabilities.

    Source: Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv
    2107.07075, definition 2.2.
    """
    probabilities = check_probabilities(probabilities, runs=True)
    length, num_classes = probabilities.shape[-2:]
    labels = check_labels(labels, "labels", length=length, num_classes=num_classes)
    errors = probabilities.astype(np.float64).reshape(-1, length, num_classes)
    errors[:, np.arange(length), labels] -= 1
    return np.linalg.norm(errors, axis=-1).mean(axis=0)


def herding(embeddings: Any, labels: Any, count: int) -> np.ndarray:
    """Picks `count` images of each class, one by one, so that their mean stays near the class's.

    The t-th pick is the image, not picked yet, that brings the mean of the t picks nearest to the
    mean of the class. Distances are Euclidean, between embeddings divided by their length. Ties go
    to the first row, but rounding may decide between equals. The rows of one class at a time are in
    memory, in float64.

    Args:
      embeddings: floating point [n, d]. A jax array whose rows are split over devices stays there,
        and every process of the job makes this call.
      labels: integer [n], any values.
      count: at least 1, and at most the images of the smallest class.

    Returns:
      int64 [classes, count], the rows of each class in the order picked; classes that occur, in
        ascending order.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, or a count out of range; names the class.

    Source: Welling, "Herding Dynamical Weights to Learn", ICML 2009, without repetition as in
    Rebuffi et al., "iCaRL", arXiv 1611.07725, algorithm 4. For vectors of length 1 both rules pick
    the same images, except for repetitions.
    """
    embeddings, labels = check_labelled(embeddings, labels, on_devices=True)
    check_at_least("count", count, 1)
    names, sizes = np.unique(labels, return_counts=True)
    if count > sizes.min():
        raise ValueError(
            f"count: expected at most {sizes.min()}, the number of images of class "
            f"{names[np.argmin(sizes)]}, got {count}"
        )
    return np.stack(_herd_classes(embeddings, labels, np.full(len(names), count)))


def select(
    scores: Any,
    labels: Any,
    fraction: float,
    *,
    drop: str = "lowest",
    balanced: bool = True,
    seed: int = 0,
    embeddings: Any = None,
) -> np.ndarray:
    """Chooses the images of a coreset: round(fraction n) of them (halves round to the even number).

    Args:
      scores: integer, bool or floating point [n], finite; or "random"; or "herding", which picks
        within classes by `embeddings`.
      labels: integer [n], any values.
      fraction: above 0 and at most 1, the share that is kept.
      drop: "lowest" keeps the highest scores, "highest" the lowest. High common-strata, forgetting
        and EL2N scores mark hard images. No effect without scores.
      balanced: True: keep the same fraction of each class. Counts are rounded down or up to meet
        the total: the largest remainders are rounded up (ties: the lowest label). It is an error
        if a class keeps no image. False: keep the best scores over all classes.
      seed: decides between equal scores and draws "random", in [0, 2**64).
      embeddings: for "herding" only, floating point [n, d], as `herding`.

    Returns:
      int64 [round(fraction n)], rows in ascending order.

    Raises:
      TypeError: arguments of another dtype.
      ValueError: an argument out of range, of the wrong shape, unknown, or not meant for this
        method; or a fraction that keeps no image, or none of a class.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.coreset import select
      >>> select(np.array([0.1, 0.9, 0.4, 0.8]), np.array([0, 0, 1, 1]), fraction=0.5)
      array([1, 3])
    """
    labels = check_labels(labels, "labels", least=1)
    check_option("drop", drop, DROPS)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: expected a share above 0 and at most 1, got {fraction}")
    check_seed(seed)
    method = scores if isinstance(scores, str) else None
    if method is not None and method not in METHODS:
        raise ValueError(f"scores: expected an array [n] or one of {METHODS}, got {method!r}")
    if embeddings is not None and method != "herding":
        raise ValueError("embeddings: expected None without scores='herding', got an array")
    if method == "herding":
        if embeddings is None:
            raise ValueError("embeddings: expected [n, d] with scores='herding', got None")
        if not balanced:
            raise ValueError("balanced: expected True with scores='herding', got False")

    names, group = np.unique(labels, return_inverse=True)
    total = round(fraction * len(labels))
    if total == 0:
        raise ValueError(
            f"fraction: expected one that keeps some of the {len(labels)} images, got {fraction}"
        )
    shares = _class_counts(np.bincount(group), fraction, total) if balanced else np.zeros(0, int)
    if balanced and shares.min() == 0:
        empty = int(np.argmin(shares))
        raise ValueError(
            f"fraction: expected one that keeps images of each class, got {fraction}, which "
            f"keeps none of the {np.count_nonzero(group == empty)} images of class {names[empty]}"
        )

    if method == "herding":
        embeddings, labels = check_labelled(embeddings, labels, on_devices=True)
        return np.sort(np.concatenate(_herd_classes(embeddings, labels, shares)))
    if method == "random":
        values = np.zeros(len(labels))
    else:
        values = _check_scores(scores, len(labels))
        if drop == "lowest":
            values = -values
    order = np.lexsort((permutation(seed, CORESET_TIES, len(labels)), values))  # the best first
    if not balanced:
        return np.sort(order[:total])
    rows, place = in_groups(order, group)
    return np.sort(rows[place < shares[group[rows]]])


def _herd_classes(embeddings: Rows, labels: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Returns each class's rows, integer [counts[c]], in the order picked."""
    points = Points(embeddings, normalize=True)
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    return [
        rows[_herd(points.take(rows), count)]
        for rows, count in zip(np.split(order, np.cumsum(sizes)[:-1]), counts, strict=True)
    ]


def _herd(unit: np.ndarray, count: int) -> np.ndarray:
    """Returns int64 [count], rows of [m, d] in the order picked."""
    mean = unit.mean(axis=0)
    half_squares = np.sum(unit**2, axis=1) / 2
    picks = np.empty(count, np.int64)
    missing = np.zeros_like(mean)  # t times the mean, less the sum of the picks before
    for t in range(count):
        missing += mean
        # |missing - z|^2 without |missing|^2, which is the same for every z.
        gains = unit @ missing - half_squares
        gains[picks[:t]] = -np.inf
        picks[t] = np.argmax(gains)
        missing -= unit[picks[t]]
    return picks


def _class_counts(sizes: np.ndarray, fraction: float, total: int) -> np.ndarray:
    """Returns int64 [classes] with a sum of `total`, each fraction * size rounded down or up."""
    exact = fraction * sizes
    counts = np.floor(exact).astype(np.int64)
    # 0.29 * 100 is 28.999999999999996: its remainder becomes 1, and is rounded up first.
    remainders = np.round(exact - counts, 9)
    up = np.argsort(-remainders, kind="stable")[: total - counts.sum()]
    counts[up] += 1
    return counts


def _check_scores(scores: Any, length: int) -> np.ndarray:
    array = np.asarray(scores)
    if array.dtype != np.bool_ and not np.issubdtype(array.dtype, np.number):
        raise TypeError(f"scores: expected numbers [{length}], got dtype {array.dtype}")
    return check_floats(array.astype(np.float64), "scores", length=length)
