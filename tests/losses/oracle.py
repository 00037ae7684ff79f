"""The losses once more, in float64 NumPy and plain loops, written from the papers alone.

Nothing here is shared with the package: the tests hold every implementation to these numbers.
Notation of one anchor i: `s` are the similarities s_ij = <z_i, z_j> / temperature to all entries,
`others` is A(i), `positives` is P(i), `negatives` is N(i), `own` are the other views of i's image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pytest

# Every implementation named here gets every test; a new one is one more name.
IMPLEMENTATIONS = ("dense", "streaming")
# How the devices of an axis share the work.
SHARDED = ("dense", "streaming_gather", "streaming_ring")
# Those that promise forward mode and second derivatives.
SECOND_ORDER = ("dense",)
# Those that compile quickly: they are tested with every loss, the others with few.
QUICK = ("dense",)


@dataclasses.dataclass(frozen=True)
class Anchor:
    """The similarities of one anchor, split the ways the formulas need them."""

    others: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    own: np.ndarray


def lse(values: np.ndarray) -> float:
    """log(sum(exp(values)))."""
    largest = np.max(values)
    return float(largest + np.log(np.sum(np.exp(values - largest))))


def info_nce(anchor: Anchor) -> float:
    """-s_{i,a(i)} + lse over A(i), the first term averaged over the other views."""
    return float(-np.mean(anchor.own)) + lse(anchor.others)


def supcon(anchor: Anchor, denominator: str = "all") -> float:
    """L_out ("all": lse over A(i)) or L_attract ("one_positive": lse over {p} and N(i))."""
    terms = []
    for positive in anchor.positives:
        if denominator == "all":
            terms.append(-positive + lse(anchor.others))
        elif denominator == "one_positive":
            terms.append(-positive + lse(np.append(anchor.negatives, positive)))
        else:
            raise AssertionError(denominator)
    return float(np.mean(terms))


def class_conditional_info_nce(anchor: Anchor) -> float:
    """-s_{i,a(i)} + lse over P(i), the first term averaged over the other views."""
    return float(-np.mean(anchor.own)) + lse(anchor.positives)


def spread(anchor: Anchor, alpha: float = 0.5, denominator: str = "all") -> float:
    """(1 - alpha) SupCon + alpha class-conditional InfoNCE."""
    return (1 - alpha) * supcon(anchor, denominator) + alpha * class_conditional_info_nce(anchor)


def joint(anchor: Anchor, beta: float = 0.5, denominator: str = "all") -> float:
    """Beta SupCon + (1 - beta) InfoNCE."""
    return beta * supcon(anchor, denominator) + (1 - beta) * info_nce(anchor)


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A row of the table: how the package calls a loss and what it means here."""

    name: str
    function: str
    anchor: Callable[..., float]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: bool = True
    own_views: bool = True  # its terms need a second view of the same image
    counts: str = "positives"  # an anchor counts when this set of its is not empty

    def __repr__(self) -> str:
        return self.name

    def call(self, losses: Any, embeddings: Any, labels: Any, **keywords: Any) -> Any:
        """The package's value: `losses` is the module, `keywords` its common keywords."""
        arguments = (embeddings, labels) if self.labels else (embeddings,)
        return getattr(losses, self.function)(*arguments, **{**self.options, **keywords})

    def expect(self, embeddings: Any, labels: Any, **keywords: Any) -> Any:
        """The oracle's value, by the same keywords."""
        return contrastive(self, embeddings, labels, **{**self.options, **keywords})


LOSSES = (
    Loss("info_nce", "info_nce", info_nce, labels=False, counts="own"),
    Loss("supcon", "supcon", supcon, own_views=False),
    Loss("attract", "supcon", supcon, {"denominator": "one_positive"}, own_views=False),
    Loss("cnce", "class_conditional_info_nce", class_conditional_info_nce),
    Loss("spread", "spread", spread, {"alpha": 0.3}),
    Loss("spread_attract", "spread", spread, {"alpha": 0.3, "denominator": "one_positive"}),
    Loss("joint", "joint", joint, {"beta": 0.7}),
    Loss("joint_attract", "joint", joint, {"beta": 0.7, "denominator": "one_positive"}),
)
BY_NAME = {loss.name: loss for loss in LOSSES}


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Each vector divided by its length; a zero vector stays zero."""
    result = np.zeros_like(vectors)
    for index in np.ndindex(vectors.shape[:-1]):
        length = np.sqrt(np.sum(vectors[index] ** 2))
        if length != 0:
            result[index] = vectors[index] / length
    return result


def contrastive(
    loss: Loss,
    embeddings: Any,
    labels: Any,
    *,
    temperature: float = 0.5,
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    memory_bank: Any = None,
    reduction: str = "mean",
    **options: Any,
) -> np.ndarray:
    """The loss of a batch: a scalar, or [batch, views] with reduction "none".

    Of the memory bank, `embeddings`, `labels` (which may be None) and `filled` are looked at.
    """
    z = np.asarray(embeddings).astype(np.float64)
    if z.ndim == 2:
        z = z[:, None, :]
    num_images, num_views, _ = z.shape
    if normalize:
        z = normalized(z)
    valid = np.ones(num_images, bool) if where is None else np.asarray(where)
    valid = np.broadcast_to(valid.reshape(num_images, -1), (num_images, num_views))
    classes = [0] * num_images if labels is None else [int(label) for label in np.asarray(labels)]
    remembered = [] if memory_bank is None else in_bank(memory_bank, normalize)
    for name in options.keys() & {"alpha", "beta"}:
        options[name] = float(options[name])  # a float32 would make the sums float32

    per_anchor = np.zeros((num_images, num_views))
    counted = np.zeros((num_images, num_views), bool)
    for image in range(num_images):
        for view in range(num_views):
            if not valid[image, view]:
                continue
            sets: dict[str, list[float]] = {k: [] for k in ("others", "positives", "negatives")}
            sets["own"] = []
            for other in range(num_images):
                for other_view in range(num_views):
                    if not valid[other, other_view] or (other, other_view) == (image, view):
                        continue
                    if views == "cross" and other_view == view:
                        continue
                    s = float(np.dot(z[image, view], z[other, other_view])) / float(temperature)
                    same = classes[other] == classes[image]
                    sets["others"].append(s)
                    sets["positives" if same else "negatives"].append(s)
                    if other == image:
                        sets["own"].append(s)
            for vector, label in remembered:
                s = float(np.dot(z[image, view], vector)) / float(temperature)
                sets["others"].append(s)
                sets["positives" if label == classes[image] else "negatives"].append(s)
            anchor = Anchor(**{name: np.array(values) for name, values in sets.items()})
            if getattr(anchor, loss.counts).size:
                counted[image, view] = True
                per_anchor[image, view] = loss.anchor(anchor, **options)
    if reduction == "none":
        return per_anchor
    return per_anchor[counted].mean() if counted.any() else np.zeros(())


def in_bank(memory_bank: Any, normalize: bool) -> list[tuple[np.ndarray, int | None]]:
    """The entries of a memory bank: vector and label."""
    vectors = np.asarray(memory_bank.embeddings).astype(np.float64)
    filled = np.asarray(memory_bank.filled)
    vectors[~filled] = 0.0  # what lies in empty places is nothing
    vectors = normalized(vectors) if normalize else vectors
    labels = [None] * len(vectors) if memory_bank.labels is None else memory_bank.labels
    labels = [None if label is None else int(label) for label in labels]
    return [(vectors[i], labels[i]) for i in range(len(vectors)) if filled[i]]


def clip(image: Any, text: Any, temperature: float, normalize: bool = True) -> np.ndarray:
    """Figure 3 of Radford et al., line by line: [batch, 2], whose mean is their loss.

    They average the cross-entropies of the rows (the right text of each image) and of the columns.
    """
    i, t = (np.asarray(array).astype(np.float64) for array in (image, text))
    if normalize:
        i, t = normalized(i), normalized(t)
    logits = np.dot(i, t.T) / float(temperature)
    n = len(logits)
    right = np.arange(n)
    per_image = logits - np.array([lse(row) for row in logits])[:, None]
    per_text = logits - np.array([lse(column) for column in logits.T])[None, :]
    return np.stack([-per_image[right, right], -per_text[right, right]], axis=1)


def cross_modal(
    image: Any,
    text: Any,
    labels: Any = None,
    *,
    alpha: float = 0.0,
    temperature: float = 0.07,
    denominator: str = "all",
    where: Any = None,
    normalize: bool = True,
    reduction: str = "mean",
) -> np.ndarray:
    """Two towers: CLIP's loss, and with labels loops over the pairs of each class.

    Without alpha, the labelled form is a term of UniCL's sums over images and over texts.
    """
    keep = np.ones(len(image), bool) if where is None else np.asarray(where)
    per_anchor = np.zeros((len(keep), 2))
    i, t = (np.asarray(array).astype(np.float64)[keep] for array in (image, text))
    if labels is None:
        if len(i):
            per_anchor[keep] = clip(i, t, temperature, normalize)
    else:
        classes = [int(label) for label in np.asarray(labels)[keep]]
        if normalize:
            i, t = normalized(i), normalized(t)
        for direction, (anchors, others) in enumerate([(i, t), (t, i)]):
            rows = np.zeros(len(classes))
            for a, anchor in enumerate(anchors):
                s = [float(np.dot(anchor, other)) / float(temperature) for other in others]
                mates = [b for b in range(len(s)) if classes[b] == classes[a]]
                rest = [s[b] for b in range(len(s)) if classes[b] != classes[a]]
                attract = [
                    lse(np.array(s if denominator == "all" else [*rest, s[b]])) - s[b]
                    for b in mates
                ]
                apart = lse(np.array([s[b] for b in mates])) - s[a]
                rows[a] = (1 - float(alpha)) * np.mean(attract) + float(alpha) * apart
            per_anchor[keep, direction] = rows
    if reduction == "none":
        return per_anchor
    return per_anchor[keep].mean() if keep.any() else np.zeros(())


def reconstruction(images: Any, reconstructions: Any, where: Any = None) -> float:
    """Mean squared error over all numbers of the images that are not padding."""
    x, y = (np.asarray(array).astype(np.float64) for array in (images, reconstructions))
    keep = np.ones(len(x), bool) if where is None else np.asarray(where)
    errors = [(x[i] - y[i]) ** 2 for i in range(len(x)) if keep[i]]
    return float(np.mean(errors)) if errors else 0.0


def largest_similarity(
    embeddings: Any, temperature: Any, normalize: bool = True, where: Any = None
) -> float:
    """Largest |s_ij|: the rounding of a loss is in units of this, not of the loss itself."""
    z = np.asarray(embeddings).astype(np.float64)
    if where is not None:
        z = z[np.asarray(where)]
    longest = 1.0 if normalize else float(np.max(np.sum(z**2, axis=-1), initial=0.0))
    return longest / float(temperature)


def differentiate(function: Callable[[np.ndarray], Any], at: Any, step: float = 1e-5) -> np.ndarray:
    """Central differences of a scalar function in float64, entry by entry."""
    point = np.array(at, dtype=np.float64)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (float(function(up)) - float(function(down))) / (2 * step)
    return gradient


def chosen(some: Iterable[Any], *axes: Iterable[Any]) -> list[Any]:
    """Every combination of the axes as a parameter of a test; all but some with --everything.

    For axes that have little to do with each other, where each option is in one of `some`.
    """
    left = set(some)
    rows = list(itertools.product(*axes))
    assert left <= set(rows), left - set(rows)
    return [row if row in left else pytest.param(*row, marks=pytest.mark.everything)
            for row in rows]  # fmt: skip


# Data. Twelve entries for any number of views, so that tests share compiled operations.

ENTRIES = 12
LABELS = {
    "random": (2, 0, 1, 2, 1, 0, 2, 2, 0, 1, 3, 3),
    "singletons": (4, 4, 1, 2, 4, 3, 0, 5, 5, 6, 7, 8),
    "one_class": (5,) * ENTRIES,
    "all_different": (6, 2, 9, 4, 0, 11, 3, 1, 5, 10, 7, 8),
    # Neighbours that a float32 could not tell apart.
    "extreme": (-(2**31), 2**31 - 1, 1 - 2**31, 2**31 - 2, -(2**31), 2**31 - 1, -1, 0, 1, -1, 0, 7),
}
WHERE = {
    "everything": (1,) * ENTRIES,
    "padded": (1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1),
    "one_image": (0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "nothing": (0,) * ENTRIES,
}


def embeddings_like(
    num_views: int | None,
    *,
    batch: int | None = None,
    dim: int = 5,
    seed: int = 0,
    dtype: Any = np.float32,
) -> np.ndarray:
    """Gaussian [batch, views, dim], or [batch, dim] when num_views is None."""
    batch = batch or ENTRIES // (num_views or 1)
    shape = (batch, dim) if num_views is None else (batch, num_views, dim)
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def labels_like(kind: str, batch: int = ENTRIES // 2) -> np.ndarray:
    return np.array(LABELS[kind][:batch], dtype=np.int32)


def where_like(kind: str, batch: int = ENTRIES // 2) -> np.ndarray:
    return np.array(WHERE[kind][:batch], dtype=bool)


@contextlib.contextmanager
def lowered_programs() -> Iterator[list[str]]:
    """A list that gets the name of every program that jax makes meanwhile."""
    programs: list[str] = []
    is_open = True

    def listen(event: str, seconds: float, **_: Any) -> None:
        if is_open and event.endswith("jaxpr_to_mlir_module_duration"):
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield programs
    is_open = False
