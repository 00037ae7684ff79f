"""The minimizer of the losses: the global minimizer with the least norm.

With enough rows it satisfies W'W = M^+ P M^+. With fewer rows, the loss is, up to a constant, the
squared distance of M^(1/2) W'W M^(1/2) to Q = M^(+1/2) P M^(+1/2), and the best W has Q's leading
eigenvectors. In the unsupervised Q, every feature that augmentation does not change has eigenvalue
1, so that the leading eigenvectors are tied. The norm then decides which features are learned:
strong ones, because they need small weights. This is the paper's simplicity bias. Features of equal
strength are tied in norm too, and it is undetermined which of them a narrow encoder learns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thanos_jax.theory.data import ModelError, check_integer
from thanos_jax.theory.structure import Structure, solve

# Relative to the largest eigenvalue: an eigenvalue below the first is 0, and two eigenvalues within
# the second are tied. Rounding is near 1e-14; untied eigenvalues differ by 1e-3 in these models.
_ZERO = 1e-10
_TIED = 1e-8


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of R M^+ R', whose nonzero eigenvalues equal Q's.

    Attributes:
      values: float64 [r], descending.
      vectors: float64 [r, r], in columns.
    """

    values: np.ndarray
    vectors: np.ndarray


def dense(covariance: Any, positives: Any, rows: int) -> np.ndarray:
    """Calculates the minimizer of least norm from dense matrices.

    Args:
      covariance: M, positive semidefinite, [d + 1, d + 1].
      positives: P, positive semidefinite, [d + 1, d + 1], with its range in the range of M.
      rows: number of rows of W, at least 1. If it is at least the rank of P, W'W = M^+ P M^+.

    Returns:
      W, float64 [rows, d + 1]; rows that are not needed are 0.

    Raises:
      ModelError: a shape is wrong, or rows < 1.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    covariance, positives = np.asarray(covariance, float), np.asarray(positives, float)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ModelError(f"covariance: expected a square matrix, got shape {covariance.shape}")
    if positives.shape != covariance.shape:
        raise ModelError(
            f"positives: expected covariance's shape {covariance.shape}, got {positives.shape}"
        )
    values, vectors = np.linalg.eigh(positives)
    kept = values > _ZERO * values[-1]
    factor = (vectors[:, kept] * np.sqrt(values[kept])).T
    solutions = factor @ np.linalg.pinv(covariance, rcond=_ZERO, hermitian=True)
    return _leading(spectrum(factor, solutions), solutions, rows)


def structured(parts: Structure, rows: int, known: Spectrum | None = None) -> np.ndarray:
    """Calculates the minimizer of least norm from a sample's structure.

    Args:
      parts: M and a factor of P.
      rows: number of rows of W, at least 1.
      known: the `spectrum` of a sample that differs only in phi_1, phi_2, phi_k or mu, without
        noise on features. It is the same for both samples, so that it is not calculated again.

    Returns:
      W, float64 [rows, d + 1], equal to `dense` up to a rotation of W's rows.

    Raises:
      ModelError: rows < 1.

    Source: Xue et al., ICML 2023
    """
    solutions = solve(parts)
    return _leading(known or spectrum(parts.factor, solutions), solutions, rows)


def spectrum(factor: np.ndarray, solutions: np.ndarray) -> Spectrum:
    """Calculates the eigendecomposition of R M^+ R'.

    Without noise on features, it does not depend on their strengths. Other strengths multiply
    inputs by an invertible matrix S: R becomes R S and M becomes S'MS, which has the generalized
    inverse S^-1 M^+ S'^-1. R M^+ R' is the same for every generalized inverse, because R's rows are
    in the range of M.

    Args:
      factor: R, [r, d + 1].
      solutions: R M^+, [r, d + 1].
    """
    gram = solutions @ factor.T
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return Spectrum(values[::-1], vectors[:, ::-1])


def _leading(decomposed: Spectrum, solutions: np.ndarray, rows: int) -> np.ndarray:
    """Returns W from the leading eigenvectors; among tied ones, the least in norm are used."""
    check_integer("rows", rows, least=1)
    values, vectors = decomposed
    # With R M^(+1/2) = G L^(1/2) U', Q = U L U', and W = L^(1/2) U' M^(+1/2) = G' R M^+.
    candidates = vectors.T @ solutions
    found = np.zeros((rows, solutions.shape[1]))
    rank = int(np.sum(values > _ZERO * values[0]))
    if rank <= rows:
        found[:rank] = candidates[:rank]
        return found
    least, margin = values[rows - 1], _TIED * values[0]
    certain = int(np.sum(values > least + margin))
    tied = candidates[certain : int(np.sum(values >= least - margin))]
    found[:certain] = candidates[:certain]
    # Eigenvalues are ascending, so that the first ones have the smallest norms.
    norms = np.linalg.eigh(tied @ tied.T)[1]
    found[certain:] = norms[:, : rows - certain].T @ tied
    return found
