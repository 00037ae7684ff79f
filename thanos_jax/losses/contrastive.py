"""The contrastive losses, each a short formula of pair statistics.

`thanos_jax.losses` describes the arguments that they share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from thanos_jax.losses import checks, pairs, placement
from thanos_jax.losses.memory_bank import MemoryBank, candidates, checked
from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.reduction import OPTIONS as REDUCTIONS
from thanos_jax.losses.reduction import reduce

VIEWS = ("all", "cross")
DENOMINATORS = ("all", "one_positive")

# Stands for labels that differ for every image. An object, because None could be passed by mistake.
EVERY_IMAGE_ITS_OWN = object()

# The terms of a loss, per anchor: one pair statistic, or the first minus the second.
Term = tuple[str, ...]
INFO_NCE: Term = ("log_sum_all", "mean_own")
CLASS_CONDITIONAL: Term = ("log_sum_same", "mean_own")
_SUPCON: dict[str, Term] = {
    "all": ("log_sum_all", "mean_same"),
    "one_positive": ("one_positive",),
}


class Shared(NamedTuple):
    """The keywords that all contrastive losses share, in the order of their signatures."""

    temperature: Any
    views: str
    where: Any
    normalize: bool
    memory_bank: Any
    axis_name: AxisName | None
    implementation: str
    reduction: str


def info_nce(
    embeddings: Any,
    *,
    temperature: Any = 0.5,
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    memory_bank: MemoryBank | None = None,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """InfoNCE: attracts an anchor to the other views of its image, repels all others; no labels.

    Per anchor i, averaged over the other views a(i) of its image:
      -s_{i,a(i)} + log sum_{j in A(i)} exp s_ij

    Args:
      embeddings: float [batch, views, dim], at least two views.
      temperature: see `thanos_jax.losses`, as for the following keywords.
      views: "all" or "cross".
      where: bool [batch] or [batch, views], or None.
      normalize: whether embeddings are divided by their length.
      memory_bank: further candidates, made by `losses.memory_bank`, or None.
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
    shared = Shared(
        temperature, views, where, normalize, memory_bank, axis_name, implementation, reduction
    )
    return mixture(embeddings, EVERY_IMAGE_ITS_OWN, shared, INFO_NCE)


def supcon(
    embeddings: Any,
    labels: Any,
    *,
    temperature: Any = 0.5,
    denominator: str = "all",
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    memory_bank: MemoryBank | None = None,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """Supervised contrastive loss: attracts an anchor to its class and repels all others.

    Per anchor i, averaged over its positives p in P(i):
      denominator="all":           -s_ip + log sum_{j in A(i)} exp s_ij            (L_out of Khosla)
      denominator="one_positive":  -s_ip + log sum_{j in {p} and N(i)} exp s_ij    (L_attract of Fu)

    Args:
      embeddings: float [batch, views, dim] or [batch, dim].
      labels: integer [batch].
      temperature: see `thanos_jax.losses`, as for the other keywords.
      denominator: "all": all candidates are in the denominator; "one_positive": only the positive
        of the numerator and the negatives are.
      views: "all" or "cross".
      where: bool [batch] or [batch, views], or None.
      normalize: whether embeddings are divided by their length.
      memory_bank: further candidates, made by `losses.memory_bank`, or None.
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
    shared = Shared(
        temperature, views, where, normalize, memory_bank, axis_name, implementation, reduction
    )
    return mixture(embeddings, labels, shared, supcon_term(denominator))


def class_conditional_info_nce(
    embeddings: Any,
    labels: Any,
    *,
    temperature: Any = 0.5,
    views: str = "all",
    where: Any = None,
    normalize: bool = True,
    memory_bank: MemoryBank | None = None,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """Class-conditional InfoNCE: spreads the images of a class apart.

    Per anchor i, averaged over the other views a(i) of its image:
      -s_{i,a(i)} + log sum_{j in P(i)} exp s_ij,    P(i) contains a(i)
    It is L_cNCE of Thanos and L_repel of The Details Matter.

    Args:
      embeddings: float [batch, views, dim], at least two views.
      labels: integer [batch].
      temperature: see `thanos_jax.losses`, as for the following keywords.
      views: "all" or "cross".
      where: bool [batch] or [batch, views], or None.
      normalize: whether embeddings are divided by their length.
      memory_bank: further candidates, made by `losses.memory_bank`, or None.
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
    shared = Shared(
        temperature, views, where, normalize, memory_bank, axis_name, implementation, reduction
    )
    return mixture(embeddings, labels, shared, CLASS_CONDITIONAL)


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
    memory_bank: MemoryBank | None = None,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """The spread loss: (1 - alpha) `supcon` + alpha `class_conditional_info_nce`, in one pass.

    alpha is the weight of the spreading term, as in Thanos. The Details Matter writes
    alpha L_attract + (1 - alpha) L_repel: its alpha is 1 - alpha here, and its L_attract is
    `supcon` with denominator="one_positive".

    Args:
      embeddings: float [batch, views, dim], at least two views.
      labels: integer [batch].
      alpha: scalar in [0, 1]; 0: `supcon` only, 1: the spreading term only.
      temperature: see `thanos_jax.losses`, as for the other keywords.
      denominator: as in `supcon`.
      views: "all" or "cross".
      where: bool [batch] or [batch, views], or None.
      normalize: whether embeddings are divided by their length.
      memory_bank: further candidates, made by `losses.memory_bank`, or None.
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
    shared = Shared(
        temperature, views, where, normalize, memory_bank, axis_name, implementation, reduction
    )
    alpha = checks.weight("alpha", alpha)
    return mixture(embeddings, labels, shared, supcon_term(denominator), (alpha, CLASS_CONDITIONAL))


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
    memory_bank: MemoryBank | None = None,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """The joint loss: beta `supcon` + (1 - beta) `info_nce`, in one pass.

    Args:
      embeddings: float [batch, views, dim], at least two views.
      labels: integer [batch].
      beta: scalar in [0, 1]; 1: `supcon` only, 0: `info_nce` only.
      temperature: see `thanos_jax.losses`, as for the other keywords.
      denominator: as in `supcon`.
      views: "all" or "cross".
      where: bool [batch] or [batch, views], or None.
      normalize: whether embeddings are divided by their length.
      memory_bank: further candidates, made by `losses.memory_bank`, or None.
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
    shared = Shared(
        temperature, views, where, normalize, memory_bank, axis_name, implementation, reduction
    )
    beta = checks.weight("beta", beta)
    return mixture(embeddings, labels, shared, INFO_NCE, (beta, supcon_term(denominator)))


def supcon_term(denominator: str) -> Term:
    """Returns the supervised term for a denominator."""
    checks.option("denominator", denominator, DENOMINATORS)
    return _SUPCON[denominator]


class _Form(NamedTuple):
    """The terms of a loss and how it is computed; static.

    Attributes:
      terms: one or more terms; all but the first have a weight.
      views: as in the loss.
      normalize: as in the loss.
      implementation: as in the loss.
      reduction: as in the loss.
      coldest: a known lower bound of the temperature, or None.
      queue: whether the anchors are the first views only, and the candidates of each are its own
        second view and the memory bank.
    """

    terms: tuple[Term, ...]
    views: str
    normalize: bool
    implementation: str
    reduction: str
    coldest: float | None
    queue: bool


def mixture(
    embeddings: Any,
    labels: Any,
    shared: Shared,
    term: Term,
    *others: tuple[jax.Array | float, Term],
    queue: bool = False,
) -> jax.Array:
    """Computes a loss from its terms, after checking the arguments.

    The loss starts as `term`. Each (weight, other) in `others` replaces it by
    (1 - weight) loss + weight other. With `queue`, anchors are the first views; see `_Form`.
    """
    checks.option("views", shared.views, VIEWS)
    checks.option("reduction", shared.reduction, REDUCTIONS)
    checks.boolean("normalize", shared.normalize)
    checks.option("implementation", shared.implementation, pairs.OPTIONS)
    embeddings = checks.embeddings(embeddings)
    terms = (term, *(other for _, other in others))
    own_views = any("mean_own" in term for term in terms)
    batch, num_views, dim = embeddings.shape
    if num_views < 2 and (own_views or shared.views == "cross"):
        reason = (
            "the loss compares an anchor with its other views" if own_views else 'views="cross"'
        )
        raise ValueError(
            f"embeddings: expected at least two views ({reason}), [batch, views, dim], "
            f"got {num_views} view: {list(embeddings.shape)}"
        )
    bank = shared.memory_bank
    if labels is not EVERY_IMAGE_ITS_OWN:
        labels = checks.labels(labels, batch, rename=bank is None)
    else:
        labels = None
    if bank is not None:
        bank = checked("memory_bank", bank, dim)
    where = checks.where(shared.where, batch, num_views)
    temperature = checks.temperature(shared.temperature)
    implementation = pairs.choose(
        shared.implementation, batch * num_views, 0 if bank is None else bank.filled.shape[0]
    )
    return placement.place(
        _computed,
        _Form(
            terms, shared.views, bool(shared.normalize), shared.implementation, shared.reduction,
            pairs.coldest(temperature), queue,
        ),
        {"embeddings": embeddings, "labels": labels, "where": where},
        {"temperature": temperature, "weights": [weight for weight, _ in others], "bank": bank},
        shared.axis_name,
        per_row=shared.reduction == "none",
        divide=implementation != "dense",
        check_vma=shared.implementation != "pallas",
    )  # fmt: skip


def _computed(
    form: _Form, rows: dict[str, Any], shared: dict[str, Any], axis_name: AxisName | None
) -> jax.Array:
    """Computes the loss of this device's rows as part of the global batch."""
    embeddings, labels = rows["embeddings"], rows["labels"]
    bank = shared["bank"]
    if bank is not None:
        labels, bank = candidates(bank, embeddings, labels, normalized=form.normalize)
    # Sorted, because the order of a set differs between processes, and the program with it.
    names = sorted({"has_same", "has_own"}.union(*form.terms))

    def entries(embeddings: jax.Array, where: jax.Array) -> pairs.Entries:
        return pairs.make_entries(
            embeddings, labels, where, normalized=form.normalize, axis_name=axis_name
        )

    statistics = functools.partial(
        pairs.statistics,
        temperature=shared["temperature"],
        coldest=form.coldest,
        views=form.views,
        axis_name=axis_name,
        implementation=form.implementation,
        bank=bank,
    )
    if form.queue:
        found = _of_queue(entries, statistics, embeddings, rows["where"], names)
    else:
        found = statistics(entries(embeddings, rows["where"]), names=names)

    def value(term: Term) -> jax.Array:
        values = [found[name] for name in term]
        return values[0] - values[1] if len(values) == 2 else values[0]

    def mixed(values: list[jax.Array]) -> jax.Array:
        result = values[0]
        for weight, other in zip(shared["weights"], values[1:], strict=True):
            if isinstance(weight, jax.Array):
                weight = weight.astype(result.dtype)
            result = (1.0 - weight) * result + weight * other
        return result

    def reduced(values: jax.Array, counted: str) -> jax.Array:
        return reduce(values, found[counted], reduction=form.reduction, axis_name=axis_name)

    # The mean is over the anchors that have a positive; the values of the others are 0.
    if rows["where"].ndim == 1:
        loss = reduced(mixed([value(term) for term in form.terms]), "has_same")
    else:
        # If images lack views, each term has its own anchors.
        own = ["has_own" if "mean_own" in term else "has_same" for term in form.terms]
        loss = mixed([reduced(value(t), name) for t, name in zip(form.terms, own, strict=True)])
    return loss.reshape(len(embeddings), -1) if form.reduction == "none" else loss


def _of_queue(
    entries: Callable[[jax.Array, jax.Array], pairs.Entries],
    statistics: functools.partial[dict[str, jax.Array]],
    embeddings: jax.Array,
    where: jax.Array,
    names: Collection[str],
) -> dict[str, jax.Array]:
    """Computes the statistics of queries, whose candidates are their own key and the bank."""
    there = jnp.broadcast_to(where.reshape(len(where), -1), embeddings.shape[:2])
    paired = there[:, 0] & there[:, 1]
    query = entries(embeddings[:, :1], there[:, 0])
    key = entries(lax.stop_gradient(embeddings[:, 1:]), paired)
    # Entries of one view are not candidates of each other, so that the bank remains.
    in_bank = {"log_sum_all", "log_sum_same", "mean_same"}.intersection(names)
    found = statistics(query, names=sorted(in_bank))
    dtype, temperature = query.embedding.dtype, statistics.keywords["temperature"]
    own = jnp.sum(query.embedding * key.embedding, axis=1) / jnp.asarray(temperature, dtype)
    bank = statistics.keywords["bank"]
    number = pairs.count_same(query, views="cross", axis_name=None, bank=bank).astype(dtype)
    met = {"all": jnp.any(bank.valid), "same": number > 0.0}

    def log_sum(kind: str) -> jax.Array:
        log = found[f"log_sum_{kind}"]
        with_own = jnp.where(met[kind], jnp.logaddexp(log, own), own)
        return jnp.where(paired, with_own, log)

    positives = jnp.maximum(number + paired.astype(dtype), 1.0)
    available = {
        "log_sum_all": lambda: log_sum("all"),
        "log_sum_same": lambda: log_sum("same"),
        "mean_same": lambda: (number * found["mean_same"] + own) / positives,
        "mean_own": lambda: own,
        "has_same": lambda: (number > 0.0) | paired,
        "has_own": lambda: paired,
    }
    return {name: available[name]() for name in names}
