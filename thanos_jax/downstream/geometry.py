"""Geometry of embeddings on the sphere: have classes collapsed, and do their strata stay apart?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist, pdist

from thanos_jax.checks import check_at_least
from thanos_jax.downstream.arrays import check_strata
from thanos_jax.downstream.neural_collapse import Frame, Strata
from thanos_jax.downstream.points import Add, Groups, Moments, Points

_BLOCK = 4096  # points whose distances are held at a time


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

    nc1 and nc2 are undefined, and left out, where all means coincide. All figures except
    uniformity are exact over all n. Sums are float64, over blocks of rows. With g the number of
    coarse classes, or of strata in a class if that is larger: time O(n d min(g, d) + n g +
    samples^2 d), memory O(strata d + samples d) beyond the embeddings.

    Args:
      embeddings: floating point [n, d], n at least 2. A jax array whose rows are split over devices
        stays there, and every process of the job makes this call.
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

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.geometry import geometry
      >>> points = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> fine = np.array([0, 0, 1, 1])
      >>> geometry(points, fine, coarse=np.array([0, 0, 1, 1]))["collapse_index"]  # points apart
      0.0
      >>> geometry(points, fine, coarse=np.array([0, 1, 0, 1]))["collapse_index"]  # one mean
      1.0
    """
    embeddings, fine, coarse = check_strata(embeddings, fine, coarse, least=2)
    check_at_least("samples", samples, 2)
    points, strata = Points(embeddings, normalize=True), Strata.of(fine, coarse)
    classes, groups = strata.classes, strata.groups
    mean, (of_classes, of_strata) = points.moments(classes, groups)
    frame, *frames = Frame.of(points, [of_classes, *strata.moments(of_strata)])

    def add_between(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
        sums += np.sum(np.sum((of_classes.means[classes.of_row[where]] - mean) ** 2, axis=1))

    spread, spread_of_strata, between, *scatters = points.add_up(
        ((2,), _deviations(classes, of_classes)),
        ((2,), _deviations(groups, of_strata)),
        ((1,), add_between),
        *strata.scatters(of_strata, frames),
        *([frame.scatter(classes, of_classes)] if frame else []),
    )
    collapse = frame.measures(scatters.pop(), classes.counts) if frame else {}
    count = len(embeddings)
    within, within_stratum = float(spread[0] / count), float(spread_of_strata[0] / count)
    apart = float(between[0] / count)
    return {
        "within_class_spread": within,
        "between_class_spread": apart,
        "within_stratum_spread": within_stratum,
        "collapse_index": _share(within, within + apart),
        "fine_within_coarse": _share(within - within_stratum, within),
        "alignment": _over_pairs(spread[1], classes),
        "alignment_fine": _over_pairs(spread_of_strata[1], groups),
        "uniformity": _uniformity(points, seed=seed, samples=samples),
        **collapse,
        **_mean_over_classes(strata.measures(frames, scatters)),
    }


def _share(part: float, whole: float) -> float:
    # Variances of unit vectors under this are rounding, and their ratio would be noise.
    return max(part, 0.0) / whole if whole > 1e-12 else 0.0


def _deviations(groups: Groups, moments: Moments) -> Add:
    """Returns a function that adds |z - m|^2, and |z - m|^2 times the group's size, to sums [2]."""

    def add(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
        index = groups.of_row[where]
        deviations = rows - moments.means[index]
        squares = np.sum(deviations * deviations, axis=1)
        sums += np.sum(squares), np.sum(groups.counts[index] * squares)

    return add


def _over_pairs(total: float, groups: Groups) -> float:
    # In a group of c: sum over pairs i < j of |z_i - z_j|^2 = c sum |z_i|^2 - |sum z_i|^2, which
    # is c sum |z_i - m|^2; the latter form loses no digits when the group is nearly one point.
    pairs = int(np.sum(groups.counts * (groups.counts - 1) // 2))
    return float(total / pairs) if pairs else 0.0


def _mean_over_classes(found: dict[int, dict[str, float]]) -> dict[str, float]:
    # Every class has the same names.
    return {
        f"{name}_strata": float(np.mean([measured[name] for measured in found.values()]))
        for name in next(iter(found.values()), {})
    }


def _uniformity(points: Points, *, seed: int, samples: int) -> float:
    count = len(points.embeddings)
    chosen = np.arange(count)
    if count > samples:
        chosen = np.random.default_rng(seed).choice(count, samples, replace=False)
    unit = points.take(chosen)
    blocks = [unit[start : start + _BLOCK] for start in range(0, len(unit), _BLOCK)]
    total = 0.0
    for number, rows in enumerate(blocks):
        total += _kernels(pdist(rows, "sqeuclidean"))
        for others in blocks[number + 1 :]:
            total += _kernels(cdist(rows, others, "sqeuclidean"))
    return float(np.log(total / (len(unit) * (len(unit) - 1) // 2)))


def _kernels(squares: np.ndarray) -> float:
    """Returns the sum of exp(-2 x), in the memory of x."""
    np.multiply(squares, -2.0, out=squares)
    return float(np.sum(np.exp(squares, out=squares)))
