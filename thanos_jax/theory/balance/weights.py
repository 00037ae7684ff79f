"""The weight of the spreading term: alpha of the spread loss, 1 - beta of the joint loss."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from thanos_jax.theory.balance import minimum
from thanos_jax.theory.balance.batches import BalanceError, Batches, check, check_number
from thanos_jax.theory.balance.terms import DENOMINATORS, LOSSES, VIEWS, Loss


def make_loss(loss: str, temperature: float, denominator: str, views: str) -> Loss:
    """Returns a loss from keywords as in `thanos_jax.losses`, after checking them."""
    check("loss", loss, LOSSES)
    check("denominator", denominator, DENOMINATORS)
    check("views", views, VIEWS)
    smallest, largest = np.finfo(float).tiny, np.finfo(float).max
    temperature = check_number("temperature", temperature, "a positive number", smallest, largest)
    return Loss(loss, denominator, views, temperature)


def of_spreading(form: Loss, alpha: float | None, beta: float | None) -> float:
    """Returns the weight of the spreading term from alpha or beta, checked; 0 for supcon."""
    given = {"alpha": alpha, "beta": beta}
    wanted = {"spread": "alpha", "joint": "beta"}.get(form.name)
    for name, value in given.items():
        if name != wanted and value is not None:
            raise BalanceError(f"{name}: expected None with loss={form.name!r}, got {value!r}")
    if wanted is None:
        return 0.0
    return named(form, check_number(wanted, given[wanted], "a number in [0, 1]", 0.0, 1.0))


def named(form: Loss, weight: float) -> float:
    """Converts a weight of the spreading term to alpha or beta; also the other way round."""
    return 1.0 - weight if form.name == "joint" else weight


def require(form: Loss) -> None:
    """Raises BalanceError for a loss without a weight."""
    if form.name == "supcon":
        raise BalanceError("loss: expected 'spread' or 'joint', which have a weight, got 'supcon'")


def first_to_spread(batches: Batches, form: Loss) -> float:
    """Returns the weight above which some class spreads; 1 if none does."""
    meets = batches.meets

    def first(weight: float) -> float:
        found = minimum.collapsed_steepness(batches, form, weight)
        return float(np.min(balancing(found)[meets], initial=1.0))

    found = first(0.0)
    if minimum.placed_alike(batches, form) or found == 1.0:
        return found
    # The places of the points depend on the weight; at this weight the terms balance there.
    return float(brentq(lambda weight: first(weight) - weight, 0.0, 1.0, xtol=1e-12))


def balancing(found: minimum.Steepness) -> np.ndarray:
    """Returns the weight at which both derivatives cancel; 1 if the spreading one is not < 0."""
    spreads = found.spreading < 0
    gap = np.where(spreads, found.supcon - found.spreading, 1.0)
    return np.where(spreads, found.supcon / gap, 1.0)


def reaching(wanted: float, batches: Batches, form: Loss) -> float:
    """Returns the smallest weight whose minimum has a mean W of `wanted`.

    Raises:
      BalanceError: no weight reaches it.
    """
    if wanted == 0:
        return 0.0
    if len(batches.classes) == 1:
        found = minimum.steepness(batches, form, wanted)
        # With weight 1 only the spreading term counts.
        if found.spreading[0] > 0:
            raise _unreached(wanted, batches, form)
        return float(balancing(found)[0])

    low = first_to_spread(batches, form)

    def lacking(weight: float) -> float:
        if weight <= low:
            return -wanted
        return float(batches.importance @ minimum.of_kinds(batches, form, weight)[0]) - wanted

    most = lacking(1.0)
    if most < -1e-6:
        raise _unreached(wanted, batches, form)
    if most <= 0:
        return 1.0
    return float(brentq(lacking, 0.0, 1.0, xtol=1e-6))


def _unreached(wanted: float, batches: Batches, form: Loss) -> BalanceError:
    most = float(batches.importance @ minimum.spreads(batches, form, 1.0))
    return BalanceError(
        f"within_class_spread: expected at most {most:.6g}, which the spreading term reaches alone,"
        f" got {wanted:g}"
    )
