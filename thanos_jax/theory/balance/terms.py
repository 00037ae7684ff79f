"""The terms of the losses at given cosines, and their derivatives.

An anchor has three similarities, divided by the temperature: to its other view, to another image of
its class, and to images of other classes. As in `thanos_jax.losses`, a batch has two views of each
image: with views="all" both views of another image are candidates, with views="cross" one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from thanos_jax.theory.balance.batches import Batches

LOSSES = ("spread", "supcon", "joint")
DENOMINATORS = ("all", "one_positive")
VIEWS = ("all", "cross")


class Loss(NamedTuple):
    """A loss: a weighted sum of supcon and a spreading term; for "supcon" the weight is 0.

    Attributes:
      name: an element of `LOSSES`.
      denominator: denominator of supcon.
      views: "all" or "cross".
      temperature: positive.
    """

    name: str
    denominator: str
    views: str
    temperature: float

    @property
    def spreading(self) -> str:
        """Returns the name of the spreading term."""
        return "info_nce" if self.name == "joint" else "class_conditional"


class Slopes(NamedTuple):
    """A loss, averaged over anchors, and its derivatives by cosines, for K kinds of classes.

    Attributes:
      value: the loss.
      same: float64 [K], derivative by the cosine within a class, for all classes of a kind.
      other: float64 [K, K], derivative by the cosine of the anchor's kind and another class's kind.
    """

    value: float
    same: np.ndarray
    other: np.ndarray


def slopes(
    batches: Batches, loss: Loss, weight: float, same: np.ndarray, other: np.ndarray
) -> Slopes:
    """Evaluates (1 - weight) supcon + weight spreading.

    Args:
      batches: composition of the batches.
      loss: the loss.
      weight: weight of the spreading term, in [0, 1].
      same: float64 [K], cosines of two images of a class.
      other: float64 [K, K], cosines of images of two classes, by their kinds.
    """
    t, times = loss.temperature, 2.0 if loss.views == "all" else 1.0
    h = times * batches.same
    own, near = 1.0 / t, same[batches.kind] / t
    with np.errstate(divide="ignore"):
        logs = np.log(batches.mix) + other / t
        log_h, log_others = np.log(h), np.log(times * batches.others)
    of_mix = np.logaddexp.reduce(logs, axis=1)  # scipy's logsumexp is slower for so few
    far = log_others + of_mix[batches.kind]
    terms = {f"supcon_{loss.denominator}": 1.0 - weight, loss.spreading: weight}
    # Value, and derivatives by near and by far, of each case.
    parts = np.zeros((3, len(h)))
    for term, factor in terms.items():
        if factor:
            parts += factor * np.stack(_TERMS[term](own, near, far, h, log_h))
    kinds = len(batches.classes)
    value, by_near, by_far = (
        np.bincount(batches.kind, batches.probability * part, minlength=kinds) for part in parts
    )
    shares = np.exp(logs - of_mix[:, None])
    return Slopes(float(value.sum()), by_near / t, by_far[:, None] / t * shares)


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


def _info_nce(
    own: float, near: np.ndarray, far: np.ndarray, h: np.ndarray, log_h: np.ndarray
) -> Parts:
    everything = np.logaddexp(np.logaddexp(own, log_h + near), far)
    return everything - own, np.exp(log_h + near - everything), np.exp(far - everything)


def _class_conditional(
    own: float, near: np.ndarray, far: np.ndarray, h: np.ndarray, log_h: np.ndarray
) -> Parts:
    of_class = np.logaddexp(own, log_h + near)
    return of_class - own, np.exp(log_h + near - of_class), np.zeros_like(near)


def _supcon(
    own: float, near: np.ndarray, far: np.ndarray, h: np.ndarray, log_h: np.ndarray
) -> Parts:
    everything = np.logaddexp(np.logaddexp(own, log_h + near), far)
    value = everything - (own + h * near) / (1.0 + h)
    # -1 / (1 + h) + exp(near - everything), without the cancellation.
    lacking = np.exp(own - everything) * -np.expm1(near - own) + np.exp(far - everything)
    return value, -h / (1.0 + h) * lacking, np.exp(far - everything)


def _one_positive(
    own: float, near: np.ndarray, far: np.ndarray, h: np.ndarray, log_h: np.ndarray
) -> Parts:
    value = (np.logaddexp(0.0, far - own) + h * np.logaddexp(0.0, far - near)) / (1.0 + h)
    by_near = h * expit(far - near) / (1.0 + h)
    return value, -by_near, expit(far - own) / (1.0 + h) + by_near


_TERMS = {
    "supcon_all": _supcon,
    "supcon_one_positive": _one_positive,
    "info_nce": _info_nce,
    "class_conditional": _class_conditional,
}
