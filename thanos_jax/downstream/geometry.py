"""Geometry of embeddings on the sphere: have classes collapsed, and do their strata stay apart?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import pdist

from thanos_jax.checks import check_at_least
from thanos_jax.downstream import neural_collapse
from thanos_jax.downstream.arrays import as_points, check_strata
from thanos_jax.downstream.partition import group_means, group_sums
from thanos_jax.downstream.partition import strata as number_strata


def geometry(
    embeddings: Any, fine: Any, coarse: Any, *, seed: int = 0, samples: int = 4096
) -> dict[str, float]:
    """Measures spread, collapse, alignment, uniformity and neural collapse on the sphere.

    Embeddings are L2-normalized first, as the contrastive losses do. With z_i = embedding i over
    its length (a zero embedding stays zero), m the mean of all z, m_c the mean of coarse class c,
    m_s the mean of stratum s (a fine label within a coarse class):

        within_class_spread    W = mean_i |z_i - m_c(i)|^2
        between_class_spread   B = mean_i |m_c(i) - m|^2
        within_stratum_spread  S = mean_i |z_i - m_s(i)|^2
        collapse_index         W / (W + B); W + B = mean_i |z_i - m|^2 is the total variance.
                               0: every coarse class is one point. 1: the class means coincide.
                               0 where all embeddings are one point.
        fine_within_coarse     (W - S) / W: the share of the variance within coarse classes that
                               fine labels explain. 1: strata are points apart from each other; 0:
                               fine labels explain nothing, or W = 0. Labels drawn at random
                               explain about (strata - classes) / (n - classes).
        alignment              mean |z_i - z_j|^2 over pairs i < j of the same coarse class;
                               0 where there is no such pair.
        alignment_fine         mean |z_i - z_j|^2 over pairs of the same stratum.
        uniformity             log mean exp(-2 |z_i - z_j|^2) over pairs i < j of at most `samples`
                               embeddings. 0: all in one point; the lower, the more even.
        nc1, nc2_norms, nc2_cosines
                               `neural_collapse.neural_collapse` of the coarse classes.
        nc1_strata, nc2_norms_strata, nc2_cosines_strata
                               `neural_collapse.neural_collapse` of the strata within a coarse
                               class, averaged over the classes where they are defined.

    nc1 and nc2 are not defined, and left out, where no mean differs from the others. All figures
    but uniformity are exact over all n; sums are float64. Time O(n d) + O(samples^2 d).

    Args:
      embeddings: floating point [n, d], n at least 2.
      fine: integer [n], any values.
      coarse: integer [n], any values.
      seed: draws the samples for uniformity.
      samples: at least 2.

    Returns:
      The figures above by name.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, fewer than two embeddings or samples, or embeddings not finite;
        names the first bad row.

    Source: alignment (exponent 2) and uniformity (t = 2) from Wang and Isola, "Understanding
    Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
    arXiv 2005.10242.
    """
    embeddings, fine, coarse = check_strata(embeddings, fine, coarse, least=2)
    check_at_least("samples", samples, 2)
    unit = as_points(embeddings, normalize=True)
    _, strata = number_strata(fine, coarse)

    class_means = group_means(unit, coarse)
    within = _mean_square(unit - class_means)
    between = _mean_square(class_means - unit.mean(axis=0))
    within_stratum = _mean_square(unit - group_means(unit, strata))
    return {
        "within_class_spread": within,
        "between_class_spread": between,
        "within_stratum_spread": within_stratum,
        "collapse_index": _share(within, within + between),
        "fine_within_coarse": _share(within - within_stratum, within),
        "alignment": _alignment(unit, coarse),
        "alignment_fine": _alignment(unit, strata),
        "uniformity": _uniformity(unit, seed=seed, samples=samples),
        **neural_collapse.measures(unit, coarse),
        **_mean_over_classes(neural_collapse.strata_measures(unit, fine, coarse)),
    }


def _mean_square(rows: np.ndarray) -> float:
    return float(np.mean(np.sum(rows * rows, axis=1)))


def _share(part: float, whole: float) -> float:
    # Variances of unit vectors under this are rounding, and their ratio would be noise.
    return max(part, 0.0) / whole if whole > 1e-12 else 0.0


def _alignment(unit: np.ndarray, labels: np.ndarray) -> float:
    # In a group of c: sum over pairs i < j of |z_i - z_j|^2 = c sum |z_i|^2 - |sum z_i|^2, which
    # is c sum |z_i - m|^2; the latter form loses no digits when the group is nearly one point.
    group, _, counts = group_sums(unit, labels)
    deviations = unit - group_means(unit, labels)
    total = float(np.sum(counts[group] * np.sum(deviations * deviations, axis=1)))
    pairs = int(np.sum(counts * (counts - 1) // 2))
    return total / pairs if pairs else 0.0


def _mean_over_classes(found: dict[int, dict[str, float]]) -> dict[str, float]:
    # Every class has the same names.
    return {
        f"{name}_strata": float(np.mean([measured[name] for measured in found.values()]))
        for name in next(iter(found.values()), {})
    }


def _uniformity(unit: np.ndarray, *, seed: int, samples: int) -> float:
    if len(unit) > samples:
        unit = unit[np.random.default_rng(seed).choice(len(unit), samples, replace=False)]
    return float(np.log(np.mean(np.exp(-2.0 * pdist(unit, "sqeuclidean")))))
