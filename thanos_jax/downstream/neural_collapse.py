"""Neural collapse: are classes points, and do their means form a simplex?

The same measures serve coarse classes and, within each of them, its strata.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thanos_jax.checks import check_labels
from thanos_jax.downstream.arrays import as_points, check_embeddings, check_strata, unit_rows
from thanos_jax.downstream.partition import group_sums

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

    Every class counts alike in m, Sigma_W and Sigma_B, however many members it has. With balanced
    classes, the paper's case, every embedding counts alike too. With C = 2, nc2 is always 0: two
    points are a simplex.

    Where all class means coincide (to float32's precision) nc1, nc2 and nc3 are not defined and
    left out; directions in which means differ by no more are left out of pinv(Sigma_B).

    Args:
      embeddings: floating point [n, d].
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
    embeddings = check_embeddings(embeddings, "embeddings")
    rows = len(embeddings)
    known = None
    if weights is not None:
        if normalize:
            raise ValueError(
                "weights: expected None with normalize=True, for no classifier of L2-normalized "
                "embeddings was trained, got an array"
            )
        weights = check_embeddings(weights, "weights")
        if weights.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"weights: expected [classes, {embeddings.shape[1]}] as wide as the embeddings, "
                f"got shape {weights.shape}"
            )
        known = len(weights)
    labels = check_labels(labels, "labels", length=rows, num_classes=known)
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(f"labels: expected at least 2 classes, got only {present[0]}")
    points = as_points(embeddings, normalize=normalize)
    found = measures(points, labels)
    _, sums, counts = group_sums(points, labels)
    means = sums / counts[:, None]
    if weights is not None and found:
        centred = means - means.mean(axis=0)
        kept = weights[present].astype(np.float64)
        distance = _unit_matrix(kept) - _unit_matrix(centred)
        found["nc3"] = float(np.linalg.norm(distance))
    if predictions is not None:
        predictions = check_labels(predictions, "predictions", length=rows)
        # Taken from the overall mean, because a large offset would cost the differences digits.
        centre = means.mean(axis=0)
        shifted = means - centre
        nearest = np.argmin(np.sum(shifted**2, axis=1) - 2 * (points - centre) @ shifted.T, axis=1)
        found["nc4"] = float(np.mean(present[nearest] != predictions))
    return found


def strata_neural_collapse(
    embeddings: Any, fine: Any, coarse: Any, *, normalize: bool = False
) -> dict[int, dict[str, float]]:
    """Measures nc1 and nc2 of the strata of each coarse class, among themselves.

    The same as `neural_collapse` of the members of one coarse class with their fine labels.

    Args:
      embeddings: floating point [n, d].
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
    return strata_measures(as_points(embeddings, normalize=normalize), fine, coarse)


def measures(points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns nc1 and nc2 of float64 points [n, d], or nothing where they are not defined."""
    group, sums, counts = group_sums(points, labels)
    classes = len(counts)
    if classes < 2:
        return {}
    means = sums / counts[:, None]
    centred = means - means.mean(axis=0)
    scale = float(np.sqrt(np.max(np.sum(points**2, axis=1))))
    # Sigma_B = V diag(s^2) V' / C, so that trace(Sigma_W pinv(Sigma_B)) is a sum over V's columns.
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    kept = singular > _RELATIVE_ZERO * scale
    kept[classes - 1 :] = False  # C centred means span C - 1 directions; one more is rounding
    if not kept.any():
        return {}
    scores = (points - means[group]) @ directions[kept].T
    scatter = np.mean(group_sums(scores**2, labels)[1] / counts[:, None], axis=0)
    norms = np.linalg.norm(centred, axis=1)
    unit = unit_rows(centred)
    cosines = (unit @ unit.T)[np.triu_indices(classes, k=1)]
    return {
        # C of Sigma_B and the C that divides the trace cancel.
        "nc1": float(np.sum(scatter / singular[kept] ** 2)),
        "nc2_norms": float(np.std(norms) / np.mean(norms)),
        "nc2_cosines": float(np.mean(np.abs(cosines + 1 / (classes - 1)))),
    }


def strata_measures(
    points: np.ndarray, fine: np.ndarray, coarse: np.ndarray
) -> dict[int, dict[str, float]]:
    """Returns coarse label -> `measures` of its strata, where they are defined."""
    found = {}
    for label in np.unique(coarse):
        members = coarse == label
        measured = measures(points[members], fine[members])
        if measured:
            found[int(label)] = measured
    return found


def _unit_matrix(matrix: np.ndarray) -> np.ndarray:
    """Divides a matrix by its Frobenius norm; a zero matrix stays zero."""
    return unit_rows(matrix.reshape(1, -1)).reshape(matrix.shape)
