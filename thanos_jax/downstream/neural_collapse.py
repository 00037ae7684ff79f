"""Neural collapse: are classes points, and do their means form a simplex?

The same measures serve coarse classes and the strata within each of them. Points are processed in
blocks, in two passes: one for the means of groups, one for the scatter about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.checks import check_labels
from thanos_jax.downstream import partition
from thanos_jax.downstream.arrays import (
    check_embeddings,
    check_on_devices,
    check_strata,
    unit_rows,
)
from thanos_jax.downstream.points import Add, Groups, Moments, Points

# Embeddings come in float32: means nearer than this, in lengths of an embedding, have no known
# direction between them.
_RELATIVE_ZERO = float(np.finfo(np.float32).eps)


def neural_collapse(
    embeddings: Any,
    labels: Any,
    *,
    weights: Any = None,
    predictions: Any = None,
    normalize: bool = False,
) -> dict[str, float]:
    """Measures neural collapse of the classes; each figure is 0 at collapse.

    With h embeddings, m_c the mean of class c, m the mean of the C class means, M the matrix of
    rows m_c - m, Sigma_W the covariance of h - m_c and Sigma_B = M'M / C:

        nc1          trace(Sigma_W pinv(Sigma_B)) / C: scatter within classes over scatter of their
                     means
        nc2_norms    standard deviation of |m_c - m| over c, divided by their mean
        nc2_cosines  mean over pairs of classes of |cos(m_c - m, m_c' - m) + 1 / (C - 1)|
        nc3          Frobenius norm of W / |W| - M / |M|, from 0 to 2; only with `weights`
        nc4          share of embeddings whose nearest m_c (Euclidean; the lowest label among equal
                     ones) is not the class predicted; only with `predictions`

    Every class has equal weight in m, Sigma_W and Sigma_B, however many members it has. With
    balanced classes, the paper's case, every embedding has equal weight too. With C = 2, nc2 is
    always 0: two points are a simplex.

    Where all class means coincide (to float32's precision) nc1, nc2 and nc3 are undefined and left
    out. Directions in which means coincide to that precision are left out of pinv(Sigma_B).

    Sums are float64, over blocks of rows.

    Args:
      embeddings: floating point [n, d]. A jax array whose rows are split over devices stays there,
        and every process of the job makes this call.
      labels: integer [n], any values, at least two different ones; with `weights`, row numbers of
        `weights`.
      weights: floating point [classes, d], row c being the weights of class c (the transpose of a
        Flax kernel); rows of absent classes are not used. Not with normalize.
      predictions: integer [n], the classifier's classes.
      normalize: divide embeddings by their length first, as the contrastive losses do.

    Returns:
      The figures above by name.

    Raises:
      TypeError: embeddings or weights are not floating point, or labels not integers.
      ValueError: a wrong shape, embeddings not finite, a label without weights, one class only, or
        weights together with normalize.

    Source: Papyan, Han and Donoho, "Prevalence of Neural Collapse during the Terminal Phase of Deep
    Learning Training", PNAS 2020, arXiv 2008.08186.
    """
    embeddings = check_on_devices(embeddings, "embeddings")
    count, width = embeddings.shape
    known = None
    if weights is not None:
        if normalize:
            raise ValueError(
                "weights: expected None with normalize=True, because the weights are of a "
                "classifier of embeddings that are not normalized, got an array"
            )
        weights = check_embeddings(weights, "weights")
        if weights.shape[1] != width:
            raise ValueError(
                f"weights: expected [classes, {width}] as wide as the embeddings, "
                f"got shape {weights.shape}"
            )
        known = len(weights)
    labels = check_labels(labels, "labels", length=count, num_classes=known)
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(f"labels: expected at least 2 classes, got only {present[0]}")
    if predictions is not None:
        predictions = check_labels(predictions, "predictions", length=count)
    points, classes = Points(embeddings, normalize), Groups.of(labels)
    _, (moments,) = points.moments(classes)
    (frame,) = Frame.of(points, [moments])
    found: dict[str, float] = {}
    if frame is not None:
        found = frame.measures(points.add_up(frame.scatter(classes, moments))[0], classes.counts)
        if weights is not None:
            kept = weights[present].astype(np.float64)
            distance = _unit_matrix(kept) - _unit_matrix(frame.centred)
            found["nc3"] = float(np.linalg.norm(distance))
    if predictions is not None:
        # Taken from the overall mean, because a large offset would cost the differences digits.
        centre = moments.means.mean(axis=0)
        shifted = moments.means - centre
        lengths = np.sum(shifted**2, axis=1)

        def add_errors(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
            nearest = np.argmin(lengths - 2 * (rows - centre) @ shifted.T, axis=1)
            sums += np.count_nonzero(present[nearest] != predictions[where])

        (errors,) = points.add_up(((1,), add_errors), columns=len(present))
        found["nc4"] = float(errors[0] / count)
    return found


def strata_neural_collapse(
    embeddings: Any, fine: Any, coarse: Any, *, normalize: bool = False
) -> dict[int, dict[str, float]]:
    """Measures nc1 and nc2 among the strata of each coarse class.

    For each class, this equals `neural_collapse` of its members with fine labels as the labels.

    Args:
      embeddings: floating point [n, d], on devices or not, as for `neural_collapse`.
      fine: integer [n], any values.
      coarse: integer [n], any values.
      normalize: divide embeddings by their length first.

    Returns:
      Coarse label -> "nc1", "nc2_norms", "nc2_cosines". Classes of one stratum, and classes whose
      strata all have the same mean, are left out.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, or embeddings not finite.
    """
    embeddings, fine, coarse = check_strata(embeddings, fine, coarse)
    points, strata = Points(embeddings, normalize), Strata.of(fine, coarse)
    _, (moments,) = points.moments(strata.groups)
    frames = Frame.of(points, strata.moments(moments))
    scatter = points.add_up(*strata.scatters(moments, frames))
    return strata.measures(frames, scatter)


class Frame(NamedTuple):
    """Centred means of groups, with their singular value decomposition.

    Attributes:
      centred: float64 [groups, d], means less their mean.
      singular: float64 [r], the singular values of `centred` above rounding.
      directions: float64 [r, d], the right singular vectors.
    """

    centred: np.ndarray
    singular: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, points: Points, moments: Sequence[Moments]) -> list[Frame | None]:
        """Returns the frame of each set of groups, or None where no mean differs from the others.

        Args:
          points: the points that are grouped.
          moments: the moments of each set of groups.
        """
        found, masks = [], []
        for means, largest in moments:
            groups = len(means)
            centred = means - means.mean(axis=0)
            scale = float(np.sqrt(np.max(largest)))
            # Sigma_B = V diag(s^2) V' / C, so that trace(Sigma_W pinv(Sigma_B)) is a sum over V's
            # columns.
            _, singular, directions = np.linalg.svd(centred, full_matrices=False)
            kept = singular > _RELATIVE_ZERO * scale
            # C centred means span C - 1 directions; one more is rounding.
            kept[groups - 1 :] = False
            found.append((centred, singular, directions))
            masks.append(kept)
        # Processes may round differently, and must add up sums of the same shapes.
        agreed = points.of_first(np.concatenate(masks))
        masks = np.split(agreed, np.cumsum([len(mask) for mask in masks])[:-1])
        return [
            cls(centred, singular[kept], directions[kept]) if kept.any() else None
            for (centred, singular, directions), kept in zip(found, masks, strict=True)
        ]

    def scatter(self, groups: Groups, moments: Moments) -> tuple[tuple[int, int], Add]:
        """Returns (shape, function) with which `Points.add_up` sums squared scores [groups, r]."""

        def add(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
            self.add_scatter(sums, rows, moments.means, groups.of_row[where])

        return (len(self.centred), len(self.singular)), add

    def add_scatter(
        self, sums: np.ndarray, rows: np.ndarray, means: np.ndarray, index: np.ndarray
    ) -> None:
        """Adds squared scores of points [n, d] about the mean of their group to [groups, r]."""
        scores = (rows - means[index]) @ self.directions.T
        partition.add_groups(sums, scores**2, index)

    def measures(self, scatter: np.ndarray, counts: np.ndarray) -> dict[str, float]:
        """Returns nc1 and nc2 from sums of squared scores [groups, r] and group sizes [groups]."""
        groups = len(counts)
        norms = np.linalg.norm(self.centred, axis=1)
        unit = unit_rows(self.centred)
        cosines = (unit @ unit.T)[np.triu_indices(groups, k=1)]
        return {
            # C of Sigma_B and the C that divides the trace cancel.
            "nc1": float(np.sum(np.mean(scatter / counts[:, None], axis=0) / self.singular**2)),
            "nc2_norms": float(np.std(norms) / np.mean(norms)),
            "nc2_cosines": float(np.mean(np.abs(cosines + 1 / (groups - 1)))),
        }


class Strata(NamedTuple):
    """The strata of coarse classes, numbered class by class.

    Attributes:
      groups: the strata.
      classes: the coarse classes.
      first: int64 [classes + 1], where the strata of each class begin.
      labels: int64 [classes], their coarse labels.
    """

    groups: Groups
    classes: Groups
    first: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, fine: np.ndarray, coarse: np.ndarray) -> Strata:
        """Numbers the strata of labels [n]."""
        found, index = partition.strata(fine, coarse)
        labels, sizes = np.unique(found[:, 0], return_counts=True)
        first = np.concatenate([[0], np.cumsum(sizes)])
        return cls(Groups(index, np.bincount(index)), Groups.of(coarse), first, labels)

    def moments(self, moments: Moments) -> list[Moments]:
        """Splits the moments of all strata by class."""
        spans = zip(self.first[:-1], self.first[1:], strict=True)
        return [Moments(*(each[a:b] for each in moments)) for a, b in spans]

    def scatters(
        self, moments: Moments, frames: list[Frame | None]
    ) -> list[tuple[tuple[int, int], Add]]:
        """Returns `Frame.scatter` of the strata of each class that has a frame."""

        def adder(number: int, frame: Frame) -> Add:
            first, last = self.first[number : number + 2]

            def add(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
                own = np.flatnonzero(self.classes.of_row[where] == number)
                if own.size:
                    index = self.groups.of_row[where][own] - first
                    frame.add_scatter(sums, rows[own], moments.means[first:last], index)

            return add

        return [
            ((len(frame.centred), len(frame.singular)), adder(number, frame))
            for number, frame in enumerate(frames)
            if frame is not None
        ]

    def measures(
        self, frames: list[Frame | None], scatters: list[np.ndarray]
    ) -> dict[int, dict[str, float]]:
        """Returns coarse label -> nc1 and nc2 of its strata, where they are defined."""
        left = iter(scatters)
        return {
            int(self.labels[number]): frame.measures(
                next(left), self.groups.counts[self.first[number] : self.first[number + 1]]
            )
            for number, frame in enumerate(frames)
            if frame is not None
        }


def _unit_matrix(matrix: np.ndarray) -> np.ndarray:
    """Divides a matrix by its Frobenius norm; a zero matrix stays zero."""
    return unit_rows(matrix.reshape(1, -1)).reshape(matrix.shape)
