"""The contrastive losses, each a line or two over the pair statistics.

The arguments they share are described in `thanos_jax.losses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from thanos_jax.losses import checks, pairs
from thanos_jax.losses.pairs.entries import AxisName
from thanos_jax.losses.reduction import OPTIONS as REDUCTIONS
from thanos_jax.losses.reduction import reduce

VIEWS = ("all", "cross")
DENOMINATORS = ("all", "one_positive")

# In place of labels: an object that no caller can pass by mistake, as None could be.
_EVERY_IMAGE_ITS_OWN = object()

# The terms the losses are made of: the statistics each needs, per anchor.
_INFO_NCE = ("log_sum_all", "mean_own")
_CLASS_CONDITIONAL = ("log_sum_same", "mean_own")
_SUPCON = {"all": ("log_sum_all", "mean_same"), "one_positive": ("one_positive",)}


def _info_nce(statistics: Mapping[str, jax.Array]) -> jax.Array:
    return statistics["log_sum_all"] - statistics["mean_own"]


def _class_conditional(statistics: Mapping[str, jax.Array]) -> jax.Array:
    return statistics["log_sum_same"] - statistics["mean_own"]


def _supcon(statistics: Mapping[str, jax.Array], denominator: str) -> jax.Array:
    if denominator == "one_positive":
        return statistics["one_positive"]
    return statistics["log_sum_all"] - statistics["mean_same"]


def info_nce(
    embeddings: Any,
    *,
    temperature: Any = 0.5,
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """InfoNCE: an anchor's own other views against everything else; no labels.

    Per anchor i, averaged over its own other views a(i):
      -s_{i,a(i)} + log sum_{j in A(i)} exp s_ij

    Args:
      embeddings: float [batch, views, dim], at least two views.
      temperature: see `thanos_jax.losses`, as for the following keywords.
      views: "all" or "cross".
      where: bool [batch] or None.
      normalize: whether embeddings are divided by their length.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, views] with reduction="none"; float32, float64 for float64 embeddings.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, an unknown option, a temperature that is not positive, one view.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> embeddings = jnp.eye(3)[:, None, :].repeat(2, axis=1)  # both views of an image agree
      >>> round(float(losses.info_nce(embeddings, temperature=1.0)), 4)  # log(e + 4) - 1
      0.9048

    References:
      Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML
      2020, equation 1, https://arxiv.org/abs/2002.05709
    """
    statistics, batch = _statistics(
        embeddings,
        _EVERY_IMAGE_ITS_OWN,
        _INFO_NCE,
        own_views=True,
        temperature=temperature,
        views=views,
        where=where,
        normalize=normalize,
        axis_name=axis_name,
        implementation=implementation,
        reduction=reduction,
    )
    return _reduce(_info_nce(statistics), statistics, batch, reduction, axis_name)


def supcon(
    embeddings: Any,
    labels: Any,
    *,
    temperature: Any = 0.5,
    denominator: str = "all",
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """Supervised contrastive loss: an anchor's class against everything else.

    Per anchor i, averaged over its positives p in P(i):
      denominator="all":           -s_ip + log sum_{j in A(i)} exp s_ij            (L_out of Khosla)
      denominator="one_positive":  -s_ip + log sum_{j in {p} and N(i)} exp s_ij    (L_attract of Fu)

    Args:
      embeddings: float [batch, views, dim] or [batch, dim].
      labels: integer [batch].
      temperature: see `thanos_jax.losses`, as for the other keywords.
      denominator: whether an anchor's other positives stand in the denominator too.
      views: "all" or "cross".
      where: bool [batch] or None.
      normalize: whether embeddings are divided by their length.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, views] with reduction="none"; float32, float64 for float64 embeddings.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, an unknown option, a temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> embeddings, labels = jnp.eye(4), jnp.array([0, 0, 1, 1])
      >>> round(float(losses.supcon(embeddings, labels)), 4)  # log 3: nothing learnt yet
      1.0986
      >>> collapsed = jnp.eye(2)[labels]
      >>> round(float(losses.supcon(collapsed, labels)), 4)  # log(e^2 + 2) - 2
      0.2395

    References:
      Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2,
      https://arxiv.org/abs/2004.11362; Fu, Chen et al., The Details Matter, 2022, section 3.1,
      https://doi.org/10.3390/cmsf2022003004
    """
    checks.option("denominator", denominator, DENOMINATORS)
    statistics, batch = _statistics(
        embeddings,
        labels,
        _SUPCON[denominator],
        own_views=False,
        temperature=temperature,
        views=views,
        where=where,
        normalize=normalize,
        axis_name=axis_name,
        implementation=implementation,
        reduction=reduction,
    )
    return _reduce(_supcon(statistics, denominator), statistics, batch, reduction, axis_name)


def class_conditional_info_nce(
    embeddings: Any,
    labels: Any,
    *,
    temperature: Any = 0.5,
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """Class-conditional InfoNCE: tells the images of one class from each other.

    Per anchor i, averaged over its own other views a(i):
      -s_{i,a(i)} + log sum_{j in P(i)} exp s_ij,    P(i) holds a(i)
    L_cNCE of Thanos, L_repel of The Details Matter.

    Args:
      embeddings: float [batch, views, dim], at least two views.
      labels: integer [batch].
      temperature: see `thanos_jax.losses`, as for the following keywords.
      views: "all" or "cross".
      where: bool [batch] or None.
      normalize: whether embeddings are divided by their length.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, views] with reduction="none"; float32, float64 for float64 embeddings.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, an unknown option, a temperature that is not positive, one view.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> labels = jnp.array([0, 0, 1])
      >>> collapsed = jnp.eye(2)[labels][:, None, :].repeat(2, axis=1)
      >>> loss = losses.class_conditional_info_nce(collapsed, labels, reduction="none")
      >>> [[round(float(x), 4) for x in row] for row in loss]  # log 3 for a class of two images
      [[1.0986, 1.0986], [1.0986, 1.0986], [0.0, 0.0]]

    References:
      Chen, Fu et al., Perfectly Balanced, ICML 2022, section 4.1,
      https://arxiv.org/abs/2204.07596
    """
    statistics, batch = _statistics(
        embeddings,
        labels,
        _CLASS_CONDITIONAL,
        own_views=True,
        temperature=temperature,
        views=views,
        where=where,
        normalize=normalize,
        axis_name=axis_name,
        implementation=implementation,
        reduction=reduction,
    )
    return _reduce(_class_conditional(statistics), statistics, batch, reduction, axis_name)


def spread(
    embeddings: Any,
    labels: Any,
    *,
    alpha: Any = 0.5,
    temperature: Any = 0.5,
    denominator: str = "all",
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """The spread loss: (1 - alpha) `supcon` + alpha `class_conditional_info_nce`, in one pass.

    alpha weighs the spreading term, as in Thanos. The Details Matter writes
    alpha L_attract + (1 - alpha) L_repel: its alpha is one minus this one, and its L_attract is
    denominator="one_positive".

    Args:
      embeddings: float [batch, views, dim], at least two views.
      labels: integer [batch].
      alpha: scalar in [0, 1]; 0 is supcon, 1 spreads only.
      temperature: see `thanos_jax.losses`, as for the other keywords.
      denominator: as in `supcon`.
      views: "all" or "cross".
      where: bool [batch] or None.
      normalize: whether embeddings are divided by their length.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, views] with reduction="none"; float32, float64 for float64 embeddings.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, an unknown option, a temperature that is not positive, an alpha
        outside [0, 1], one view.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> collapsed = jnp.eye(2)[labels][:, None, :].repeat(2, axis=1)
      >>> apart = jnp.eye(4)[:, None, :].repeat(2, axis=1)
      >>> loss = lambda embeddings: losses.spread(embeddings, labels, alpha=0.9)
      >>> bool(loss(apart) < loss(collapsed))  # class collapse does not minimize it
      True

    References:
      Chen, Fu et al., Perfectly Balanced, ICML 2022, equation 4,
      https://arxiv.org/abs/2204.07596
    """
    checks.option("denominator", denominator, DENOMINATORS)
    alpha = checks.weight("alpha", alpha)
    statistics, batch = _statistics(
        embeddings,
        labels,
        (*_SUPCON[denominator], *_CLASS_CONDITIONAL),
        own_views=True,
        temperature=temperature,
        views=views,
        where=where,
        normalize=normalize,
        axis_name=axis_name,
        implementation=implementation,
        reduction=reduction,
    )
    per_anchor = _mix(_supcon(statistics, denominator), _class_conditional(statistics), alpha)
    return _reduce(per_anchor, statistics, batch, reduction, axis_name)


def joint(
    embeddings: Any,
    labels: Any,
    *,
    beta: Any = 0.5,
    temperature: Any = 0.5,
    denominator: str = "all",
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """The joint loss: beta `supcon` + (1 - beta) `info_nce`, in one pass.

    Args:
      embeddings: float [batch, views, dim], at least two views.
      labels: integer [batch].
      beta: scalar in [0, 1]; 1 is supcon, 0 is InfoNCE.
      temperature: see `thanos_jax.losses`, as for the other keywords.
      denominator: as in `supcon`.
      views: "all" or "cross".
      where: bool [batch] or None.
      normalize: whether embeddings are divided by their length.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, views] with reduction="none"; float32, float64 for float64 embeddings.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, an unknown option, a temperature that is not positive, a beta
        outside [0, 1], one view.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> embeddings = jnp.eye(3)[:, None, :].repeat(2, axis=1)
      >>> all_different = jnp.arange(3)  # then both halves are the same
      >>> loss = losses.joint(embeddings, all_different, temperature=1.0)
      >>> round(float(loss), 4)
      0.9048

    References:
      Xue et al., Which Features are Learnt by Contrastive Learning?, ICML 2023, section 5,
      https://arxiv.org/abs/2305.16536
    """
    checks.option("denominator", denominator, DENOMINATORS)
    beta = checks.weight("beta", beta)
    statistics, batch = _statistics(
        embeddings,
        labels,
        (*_SUPCON[denominator], *_INFO_NCE),
        own_views=True,
        temperature=temperature,
        views=views,
        where=where,
        normalize=normalize,
        axis_name=axis_name,
        implementation=implementation,
        reduction=reduction,
    )
    per_anchor = _mix(_info_nce(statistics), _supcon(statistics, denominator), beta)
    return _reduce(per_anchor, statistics, batch, reduction, axis_name)


def _mix(first: jax.Array, second: jax.Array, weight: jax.Array | float) -> jax.Array:
    if isinstance(weight, jax.Array):
        weight = weight.astype(first.dtype)
    return (1.0 - weight) * first + weight * second


def _statistics(
    embeddings: Any,
    labels: Any,
    names: tuple[str, ...],
    *,
    own_views: bool,
    temperature: Any,
    views: str,
    where: Any,
    normalize: bool,
    axis_name: AxisName | None,
    implementation: str,
    reduction: str,
) -> tuple[dict[str, jax.Array], tuple[int, int]]:
    """Checks the arguments every loss shares; returns the statistics and (batch, views).

    `own_views` says that the loss compares an
    anchor with its own other views, so that one view is not enough.
    """
    checks.option("views", views, VIEWS)
    checks.option("reduction", reduction, REDUCTIONS)
    checks.option("implementation", implementation, pairs.OPTIONS)
    embeddings = checks.embeddings(embeddings)
    batch, num_views, _ = embeddings.shape
    if num_views < 2 and (own_views or views == "cross"):
        reason = (
            "the loss compares an anchor with its other views" if own_views else 'views="cross"'
        )
        raise ValueError(
            f"embeddings: expected at least two views ({reason}), [batch, views, dim], "
            f"got {num_views} view: {list(embeddings.shape)}"
        )
    entries = pairs.make_entries(
        embeddings,
        None if labels is _EVERY_IMAGE_ITS_OWN else checks.labels(labels, batch),
        checks.where(where, batch),
        normalized=normalize,
        axis_name=axis_name,
    )
    statistics = pairs.statistics(
        entries,
        temperature=checks.temperature(temperature),
        views=views,
        names={*names, "has_same"},
        axis_name=axis_name,
        implementation=implementation,
    )
    return statistics, (batch, num_views)


def _reduce(
    per_anchor: jax.Array,
    statistics: Mapping[str, jax.Array],
    batch: tuple[int, int],
    reduction: str,
    axis_name: AxisName | None,
) -> jax.Array:
    """Averages over the anchors that have a positive; the others are worth 0."""
    loss = reduce(per_anchor, statistics["has_same"], reduction=reduction, axis_name=axis_name)
    return loss.reshape(batch) if reduction == "none" else loss
