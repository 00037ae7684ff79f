"""What the losses are minimized by: of all global minimizers the one of least norm.

With enough rows it is W'W = M^+ P M^+. With fewer the loss is, but for a constant, the squared
distance of M^(1/2) W'W M^(1/2) to Q = M^(+1/2) P M^(+1/2), and the best W has Q's leading
eigenvectors. Any feature that augmentation leaves alone has eigenvalue 1 in the unsupervised Q, so
that leading eigenvectors are tied, and it is the norm that decides which features are learnt:
strong ones, for they need small weights. This is the paper's simplicity bias. Features of equal
strength are tied in norm too: which of them a narrow encoder holds is then left open.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thanos_jax.theory.data import ModelError, check_integer
from thanos_jax.theory.structure import Structure, solve

# Shares of the largest eigenvalue: below the first an eigenvalue is 0, within the second two are
# tied. Rounding is near 1e-14; what is not tied differs by 1e-3 in the model's settings.
_ZERO = 1e-10
_TIED = 1e-8


class Spectrum(NamedTuple):
    """Of R M^+ R', which shares its eigenvalues other than 0 with Q.

    Attributes:
      values: float64 [r], descending.
      vectors: float64 [r, r], in columns.
    """

    values: np.ndarray
    vectors: np.ndarray


def dense(covariance: Any, positives: Any, rows: int) -> np.ndarray:
    """Calculates the minimizer of least norm from matrices written down.

    Args:
      covariance: M, symmetric, no negative eigenvalue, [d + 1, d + 1].
      positives: P, symmetric, no negative eigenvalue, [d + 1, d + 1], its range within that of M.
      rows: of W, at least 1. With at least as many as P has rank, W'W = M^+ P M^+.

    Returns:
      W, float64 [rows, d + 1]; rows that are not needed are 0.

    Raises:
      ModelError: a wrong shape, or rows < 1.

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
      rows: of W, at least 1.
      known: `spectrum` of a sample that differs in phi_1, phi_2, phi_k or mu alone, without noise
        on features: it is the same, and need not be calculated again.

    Returns:
      W, float64 [rows, d + 1], as `dense` has it but for a rotation of W's rows.

    Raises:
      ModelError: rows < 1.

    Source: Xue et al., ICML 2023
    """
    solutions = solve(parts)
    return _leading(known or spectrum(parts.factor, solutions), solutions, rows)


def spectrum(factor: np.ndarray, solutions: np.ndarray) -> Spectrum:
    """Decomposes R M^+ R'.

    Other strengths of features multiply inputs by an invertible matrix S: R becomes R S and M
    becomes S'MS, one of whose generalized inverses is that of M between inverses of S. R M^+ R'
    does not depend on which generalized inverse it has, as R's rows lie in the range of M, and so
    stays what it was.

    Args:
      factor: R, [r, d + 1].
      solutions: R M^+, [r, d + 1].
    """
    gram = solutions @ factor.T
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return Spectrum(values[::-1], vectors[:, ::-1])


def _leading(decomposed: Spectrum, solutions: np.ndarray, rows: int) -> np.ndarray:
    """Returns W: leading eigenvectors, and of those tied for the last rows the least in norm."""
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
    # Eigenvalues ascend: the first have the smallest norms.
    norms = np.linalg.eigh(tied @ tied.T)[1]
    found[certain:] = norms[:, : rows - certain].T @ tied
    return found
