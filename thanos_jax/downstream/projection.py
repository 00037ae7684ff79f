"""A map of embeddings by t-SNE; large sets are sampled first."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from thanos_jax.checks import check_at_least
from thanos_jax.downstream.arrays import check_embeddings, unit_rows


def project(embeddings: Any, *, seed: int = 0, limit: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Maps L2-normalized embeddings to the plane by t-SNE (scikit-learn), started from PCA.

    Args:
      embeddings: floating point [n, d].
      seed: draws the rows, and t-SNE's random numbers.
      limit: at most this many rows are mapped, drawn without replacement.

    Returns:
      (points float32 [m, 2], chosen int64 [m], the rows mapped, ascending); m = min(n, limit).
      Embeddings that all coincide are mapped to one point.

    Raises:
      TypeError, ValueError: as `check_embeddings`, or limit < 1.
    """
    check_at_least("limit", limit, 1)
    embeddings = check_embeddings(embeddings, "embeddings")
    chosen = np.arange(len(embeddings))
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), limit, replace=False))
    unit = unit_rows(embeddings[chosen])
    points = np.zeros((len(unit), 2), np.float32)
    # PCA divides by the spread, which is zero, or rounding error, where everything has collapsed.
    if len(unit) < 3 or np.max(np.std(unit.astype(np.float64), axis=0)) < 1e-7:
        return points, chosen
    if unit.shape[1] == 1:
        unit = np.pad(unit, ((0, 0), (0, 1)))
    perplexity = min(30.0, (len(unit) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # Threads meet at a barrier in every iteration; few points on a busy machine are faster alone.
    with threadpool_limits(1 if len(unit) <= 5000 else None):
        points[:] = tsne.fit_transform(unit)
    return points, chosen
