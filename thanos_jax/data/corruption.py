"""Label noise: corrupts a share of the labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from thanos_jax.checks import check_at_least, check_labels, check_option, check_seed, check_share
from thanos_jax.permutations import CHANGED_LABELS, NEW_LABELS, permutation

KINDS = ("symmetric", "asymmetric", "within_class")


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
    """Corrupts a share of the labels.

        symmetric     another class, each of the num_classes - 1 others with equal probability.
        asymmetric    the next class, the first one after the last; or the class transition[label].
        within_class  another fine label of the same coarse class, each with equal probability, for
                      training on fine labels. `labels` are coarse and stay as they are.

    A corrupted label always differs from the original, so that the rate is the share of wrong
    labels. (In the other convention for symmetric noise, a chosen label is drawn from all classes,
    and only rate (num_classes - 1) / num_classes of the labels are wrong.)

    Exactly round(rate m) labels change (halves round to the even number), drawn uniformly from the
    m labels that can change. A label cannot change if `transition` maps its class to itself, or if
    its coarse class has one fine label. With the same seed, labels changed at a lower rate are
    changed at a higher rate too, to the same class. The draw does not depend on the version of
    NumPy.

    Args:
      labels: integer [n], 0 to num_classes - 1.
      rate: in [0, 1].
      kind: "symmetric", "asymmetric" or "within_class".
      num_classes: number of classes, at least 1; classes may be empty.
      seed: in [0, 2**64).
      fine: for "within_class" only, integer [n], any values. The fine labels of a coarse class are
        those that occur with it.
      transition: for "asymmetric" only, integer [num_classes], 0 to num_classes - 1; a class mapped
        to itself keeps its labels.

    Returns:
      int64 [n], the noisy labels ("within_class": noisy fine labels); bool [n], changed.

    Raises:
      TypeError: labels, fine or transition are not integers.
      ValueError: an argument is out of range, has the wrong shape or does not apply to this kind;
        or the rate is above 0 and no label can change.
    """
    check_option("kind", kind, KINDS)
    check_at_least("num_classes", num_classes, 1)
    check_share("rate", rate)
    check_seed(seed)
    for name, value, owner in (
        ("fine", fine, "within_class"),
        ("transition", transition, "asymmetric"),
    ):
        if value is not None and kind != owner:
            raise ValueError(f"{name}: expected None unless kind={owner!r}, got kind={kind!r}")
    labels = check_labels(labels, "labels", num_classes=num_classes, least=1)

    words = np.random.Philox(key=np.array([seed, NEW_LABELS], np.uint64)).random_raw(len(labels))
    before = labels
    if kind == "symmetric":
        after = _another(labels, num_classes, words)
    elif kind == "asymmetric":
        if transition is None:
            transition = (np.arange(num_classes) + 1) % num_classes
        given = check_labels(transition, "transition", length=num_classes, num_classes=num_classes)
        after = given[labels]
    elif fine is None:
        raise ValueError("fine: expected the fine labels with kind='within_class', got None")
    else:
        before = check_labels(fine, "fine", length=len(labels))
        after = before.copy()
        for coarse in np.unique(labels):
            mine = labels == coarse
            names, place = np.unique(before[mine], return_inverse=True)
            after[mine] = names[_another(place, len(names), words[mine])]
    can_change = np.flatnonzero(after != before)
    if rate > 0 and can_change.size == 0:
        raise ValueError(f"rate: expected 0, because no label can change, got {rate}")
    changed = np.zeros(len(labels), bool)
    if can_change.size:
        order = permutation(seed, CHANGED_LABELS, len(can_change))
        changed[can_change[order[: round(rate * len(can_change))]]] = True
    return np.where(changed, after, before), changed


def _another(place: np.ndarray, count: int, words: np.ndarray) -> np.ndarray:
    """Returns int64 [n]: numbers in [0, count) other than `place`, from 64 random bits each."""
    shift = 1 + (words % np.uint64(max(count - 1, 1))).astype(np.int64)
    return (place + shift) % count
