"""A map of embeddings by t-SNE and by principal components, with each image's neighbours."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from thanos_jax.checks import check_at_least, check_option
from thanos_jax.downstream.arrays import check_on_devices, unit_rows
from thanos_jax.downstream.options import MAP_PROJECTIONS
from thanos_jax.downstream.placing import take
from thanos_jax.errors import MissingDependencyError

# t-SNE takes minutes beyond; principal components take seconds.
TSNE_LIMIT = 20_000
# Below this spread, all embeddings have collapsed, and differences are rounding errors.
_NO_SPREAD = 1e-7


class Layout(NamedTuple):
    """Positions of the images of a map, in two layouts, and their nearest neighbours.

    Attributes:
      points: float32 [m, 2], by t-SNE, which keeps neighbourhoods but not distances. Above
        `TSNE_LIMIT` images they equal `plane`.
      mapped: int64 [m], the rows mapped, ascending.
      plane: float32 [m, 2], centred L2-normalized embeddings projected onto their first two
        principal components. Distances in the plane never exceed distances of embeddings.
      neighbours: int32 [m, k], the nearest other images of the map by cosine, nearest first, as
        positions in `mapped`; k = min(8, m - 1).
      seconds: float32 [], the time that both layouts and the neighbours took.
    """

    points: np.ndarray = np.zeros((0, 2), np.float32)
    mapped: np.ndarray = np.zeros(0, np.int64)
    plane: np.ndarray = np.zeros((0, 2), np.float32)
    neighbours: np.ndarray = np.zeros((0, 0), np.int32)
    seconds: np.ndarray = np.zeros((), np.float32)


class Sample(NamedTuple):
    """Embeddings of the images of a map.

    Attributes:
      mapped: int64 [m], the rows mapped, ascending.
      embeddings: float32 [m, d].
    """

    mapped: np.ndarray
    embeddings: np.ndarray


def draw(embeddings: Any, *, seed: int = 0, limit: int = 2000) -> Sample:
    """Draws the embeddings that a map shows, without replacement: min(n, limit) of them.

    Args:
      embeddings: floating point [n, d]. A jax array whose rows are split over devices stays there,
        except for the rows drawn; every process of the job makes this call.
      seed: of the draw.
      limit: at least 1.

    Raises:
      TypeError, ValueError: as `check_embeddings`, or limit < 1.
    """
    check_at_least("limit", limit, 1)
    embeddings = check_on_devices(embeddings, "embeddings")
    mapped = np.arange(len(embeddings))
    if len(mapped) > limit:
        mapped = np.sort(np.random.default_rng(seed).choice(len(mapped), limit, replace=False))
    return Sample(mapped, take(embeddings, mapped))


def lay_out(
    embeddings: Any, *, seed: int = 0, limit: int = 2000, projection: str = "tsne"
) -> Layout:
    """Computes both layouts and the neighbours; arguments and errors as `project`."""
    started = time.perf_counter()
    sample = _drawn(embeddings, seed=seed, limit=limit)
    points, mapped = project(sample, seed=seed, projection=projection)
    unit = unit_rows(sample.embeddings)
    neighbours = np.zeros((len(unit), 0), np.int32)
    if len(unit) > 1:
        search = NearestNeighbors(n_neighbors=min(8, len(unit) - 1), algorithm="brute").fit(unit)
        # On the sphere, distances order rows as cosines do. Without X, no row is its own neighbour.
        neighbours = search.kneighbors(return_distance=False).astype(np.int32)
    flat = plane(unit, seed=seed)
    seconds = np.asarray(time.perf_counter() - started, np.float32)
    return Layout(points, mapped, flat, neighbours, seconds)


def plane(unit: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Projects rows of length 1 onto their first two principal components.

    Args:
      unit: float32 [n, d].
      seed: of the randomized solver, which is used where both n and d are large.

    Returns:
      float32 [n, 2], centred; 0 where all rows coincide, and in the second column where d is 1.
    """
    points = np.zeros((len(unit), 2), np.float32)
    if _coincide(unit):
        return points
    columns = min(2, *unit.shape)
    points[:, :columns] = PCA(columns, random_state=seed).fit_transform(unit)
    return points


def require(projection: str) -> Any:
    """Returns the class that implements a projection.

    Raises:
      MissingDependencyError: "opentsne" without openTSNE.
    """
    if projection != "opentsne":
        return TSNE
    try:
        import openTSNE
    except ImportError as error:
        raise MissingDependencyError(
            f"config.report.projection: 'opentsne' needs openTSNE: {error}. Install it with: "
            "pip install '.[opentsne]' in the project's folder, or ask for 'tsne'"
        ) from error
    return openTSNE.TSNE


def project(
    embeddings: Any, *, seed: int = 0, limit: int = 2000, projection: str = "tsne"
) -> tuple[np.ndarray, np.ndarray]:
    """Maps L2-normalized embeddings to the plane by t-SNE, started from PCA.

    Args:
      embeddings: floating point [n, d]; or the `Sample` that is mapped.
      seed: draws the rows, and t-SNE's random numbers.
      limit: at most this many rows are mapped, drawn without replacement.
      projection: "tsne": scikit-learn's t-SNE; "opentsne": openTSNE's, faster for many rows.

    Returns:
      (points float32 [m, 2], chosen int64 [m], the rows mapped, ascending); m = min(n, limit).
      Embeddings that all coincide are mapped to one point. Above `TSNE_LIMIT` rows, points come
      from `plane`.

    Raises:
      TypeError, ValueError: as `check_embeddings`, limit < 1, or another projection.
      MissingDependencyError: "opentsne" without openTSNE.
    """
    check_option("projection", projection, MAP_PROJECTIONS)
    kind = require(projection)
    chosen, drawn = _drawn(embeddings, seed=seed, limit=limit)
    unit = unit_rows(drawn)
    if len(unit) > TSNE_LIMIT:
        return plane(unit, seed=seed), chosen
    points = np.zeros((len(unit), 2), np.float32)
    if len(unit) < 3 or _coincide(unit):
        return points, chosen
    if unit.shape[1] == 1:
        unit = np.pad(unit, ((0, 0), (0, 1)))
    perplexity = min(30.0, (len(unit) - 1) / 3)
    if projection == "opentsne":
        # One thread is fastest (docs/report.md): several wait for each other.
        made = kind(perplexity=perplexity, initialization="pca", random_state=seed, n_jobs=1)
        points[:] = made.fit(unit)
        return points, chosen
    tsne = kind(perplexity=perplexity, init="pca", random_state=seed)
    # Threads meet at a barrier in every iteration; few points on a busy machine are faster alone.
    with threadpool_limits(1 if len(unit) <= 5000 else None):
        points[:] = tsne.fit_transform(unit)
    return points, chosen


def _drawn(embeddings: Any, *, seed: int, limit: int) -> Sample:
    if isinstance(embeddings, Sample):
        return embeddings
    return draw(embeddings, seed=seed, limit=limit)


def _coincide(unit: np.ndarray) -> bool:
    """Whether rows are all the same: PCA divides by their spread."""
    return bool(np.max(np.std(unit.astype(np.float64), axis=0)) < _NO_SPREAD)
