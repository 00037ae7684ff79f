"""Predicts, before training, the within-class spread at the minimum of the contrastive loss.

The prediction is for the contrastive loss alone; `thanos_jax.theory.balance` explains its terms.
There is none for methods without a loss that pulls classes together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax.data.dataset import Dataset, known_coarse
from thanos_jax.theory import balance
from thanos_jax.train.objective import METHODS


class _Form(NamedTuple):
    """A method's contrastive loss in terms of `thanos_jax.theory.balance`.

    Attributes:
      loss: its name there.
      weight: the name of its weight, there and in config.loss; "": it has none.
      fixed: the value of the weight, if the method fixes it.
      wider: a method with the same other losses and a weight to choose; "": the method itself.
    """

    loss: str
    weight: str = ""
    fixed: float | None = None
    wider: str = ""


_FORMS: dict[str, _Form] = {
    "supcon": _Form("supcon", wider="spread"),
    "supcon_cauto": _Form("supcon", wider="thanos"),
    "spread": _Form("spread", "alpha"),
    "thanos": _Form("spread", "alpha"),
    "joint": _Form("joint", "beta"),
    "supcon_info_nce": _Form("joint", "beta", fixed=0.5, wider="joint"),
}
# A smaller predicted spread gives a warning. So does a smaller ratio, at collapse, of the spreading
# term's pull to SupCon's: the other losses then decide which of the two wins.
_LEAST_SPREAD, _LEAST_PULL = 0.1, 1.25
# Advice: the weight that predicts this spread, and the first of these temperatures without warning.
_WANTED = 0.5
_TEMPERATURES = (0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05)
# Class sizes within this ratio count as equal; others are rounded to at most this many sizes, since
# time grows with their number.
_ALIKE, _SIZES = 1.25, 4


class Prediction(NamedTuple):
    """The minimum of a training's contrastive loss.

    Attributes:
      method: whose loss it is.
      setting: keywords of `thanos_jax.theory.balance.within_class_spread`; hashable values.
      within_class_spread: W there.
      threshold: W is 0 for alpha up to this value, or for beta from this value; None for SupCon.
      pull: the ratio, at collapse, of the spreading term's pull to SupCon's.
      batches: the batches, in words.
      leaves_out: other influences on the measured spread, which the prediction ignores.
    """

    method: str
    setting: Mapping[str, Any]
    within_class_spread: float
    threshold: float | None
    pull: float
    batches: str
    leaves_out: tuple[str, ...]


def predict(config: ml_collections.ConfigDict, dataset: Dataset) -> Prediction | None:
    """Predicts the spread of a training.

    Args:
      config: of the training.
      dataset: the data it is trained on. If labels are known only from reading images, classes are
        assumed to have equal sizes.

    Returns:
      The prediction. None if the training has no supervised contrastive loss, for a single class,
      and for batches larger than the training set.
    """
    form = _FORMS.get(config.method)
    if form is None or not config.loss.contrastive_weight:
        return None
    setting = {
        "loss": form.loss,
        "temperature": float(config.loss.temperature),
        "denominator": config.loss.denominator,
        "views": config.loss.views,
        **_drawn(config.train, dataset),
    }
    if form.weight:
        setting[form.weight] = float(form.fixed or config.loss[form.weight])
    found = _minimum(**setting)
    if found is None:
        return None
    left = _leaves_out(config, len(dataset.splits["train"]))
    return Prediction(config.method, setting, *found, _in_words(config.train, setting), left)


def lines(config: ml_collections.ConfigDict, dataset: Dataset) -> list[str]:
    """Returns the lines of a dry run on the predicted spread, with any warning.

    Args:
      config: of the training.
      dataset: what it is trained on.

    Returns:
      Lines of text; [] if nothing is predicted.
    """
    prediction = predict(config, dataset)
    if prediction is None:
        return []
    said = [
        f"within_class_spread {prediction.within_class_spread:.3g} predicted for the contrastive "
        f"loss alone{_collapse(prediction)}",
        f"    left out: {', '.join(prediction.leaves_out)}",
    ]
    words = warning(prediction)
    return said + ([words] if words else [])


def results(
    config: ml_collections.ConfigDict, dataset: Dataset, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the section "spread" of results.json: the predicted beside the measured spread.

    Args:
      config: of the training.
      dataset: what it was trained on.
      measured: results of the run, with its geometry if that was measured.

    Returns:
      {"spread": ...}; {} if nothing is predicted.
    """
    prediction = predict(config, dataset)
    if prediction is None:
        return {}
    shape = measured.get("geometry", {}).get("train", {})
    name = "within_class_spread"
    threshold = prediction.threshold
    return {
        "spread": {
            **({name: shape[name]} if name in shape else {}),
            f"predicted_{name}": prediction.within_class_spread,
            **({} if threshold is None else {"spread_threshold": threshold}),
            "prediction_leaves_out": ", ".join(prediction.leaves_out),
        }
    }


def warning(prediction: Prediction) -> str | None:
    """Returns the warning for a training whose classes hardly spread; None if they do."""
    if not _hardly(prediction.within_class_spread, prediction.pull):
        return None
    setting, spread = prediction.setting, prediction.within_class_spread
    form, advice = _FORMS[prediction.method], _advice(prediction)
    weight = f" with {form.weight} {setting[form.weight]:g}" if form.weight else ""
    return (
        f"WARNING: method {prediction.method}{weight} at temperature {setting['temperature']:g} "
        f"{'hardly spreads' if spread else 'collapses'} {prediction.batches}: within_class_spread "
        f"{spread:.2g} is predicted for the contrastive loss{_collapse(prediction)}."
        f"{' To spread them: ' + ', or '.join(advice) + '.' if advice else ''} See "
        "docs/methods.md"
    )


def _collapse(prediction: Prediction) -> str:
    threshold, words = prediction.threshold, ", whose minimum is collapse"
    if threshold is None:
        return words
    name, side, all_of_it = (
        ("beta", "above", 0.0) if "beta" in prediction.setting else ("alpha", "below", 1.0)
    )
    if threshold == all_of_it:
        return f"{words} at any {name}"
    return f"{words} at {name} {threshold:.3g} and {side}"


def _hardly(spread: float, pull: float) -> bool:
    return spread < _LEAST_SPREAD or pull < _LEAST_PULL


def _advice(prediction: Prediction) -> list[str]:
    """Returns settings that would spread the classes further, each with its predicted spread."""
    setting, form = prediction.setting, _FORMS[prediction.method]
    if setting["draw"] == "balanced" and setting["images_per_class"] == 1:
        return ["train.images_per_class 2 or more"]
    found = []
    wider = _FORMS[form.wider] if form.wider else form
    alone = {key: value for key, value in setting.items() if key != form.weight}
    try:
        weight = balance.alpha_for(_WANTED, **{**alone, "loss": wider.loss})
    except balance.BalanceError:  # no weight does
        pass
    else:
        method = f"method {form.wider} with " if form.wider else ""
        found.append(f"{method}{wider.weight} {weight:.2g} (predicted {_WANTED:g})")
    if not form.weight:
        return found
    for temperature in (t for t in _TEMPERATURES if t < setting["temperature"]):
        there = _minimum(**{**setting, "temperature": temperature})
        if there is not None and not _hardly(there[0], there[2]):
            return [*found, f"temperature {temperature:g} (predicted {there[0]:.2g})"]
    return found


@functools.lru_cache(maxsize=256)
def _minimum(**setting: Any) -> tuple[float, float | None, float] | None:
    """Returns W at the minimum, the threshold, and the pull; None if there is no prediction."""
    alone = {key: value for key, value in setting.items() if key not in ("alpha", "beta")}
    try:
        spread = balance.within_class_spread(**setting)
        if setting["loss"] == "supcon":
            return spread, None, 0.0
        threshold = balance.threshold(**alone)
    except balance.BalanceError:
        return None
    if setting["loss"] == "joint":
        held, spreads = 1 - threshold, 1 - setting["beta"]
    else:
        held, spreads = threshold, setting["alpha"]
    # The terms balance at the threshold; each is proportional to its weight.
    balanced, given = spreads * (1 - held), held * (1 - spreads)
    return spread, threshold, balanced / given if given else math.inf


def _drawn(train: Any, dataset: Dataset) -> dict[str, Any]:
    """Returns how batches are drawn, as keywords of `thanos_jax.theory.balance`."""
    split, classes = dataset.splits["train"], len(dataset.coarse_names)
    known, each = known_coarse(split), train.images_per_class
    sizes = np.full(classes, len(split) / classes) if known is None else np.bincount(known)
    sizes = _few_sizes(sizes[sizes > 0].astype(float))
    count = len(sizes)
    if each:
        held, draw = np.maximum(sizes, each), "balanced"
        present = train.batch_size // each
    else:
        held, draw, present = sizes, "uniform", count
    whole = tuple(np.round(held).astype(int).tolist())
    return {
        "classes": count,
        "images_per_class": each or train.batch_size / count,
        "images_in_all": whole[0] if len(set(whole)) == 1 else whole,
        "classes_in_batch": None if present == count else present,
        "draw": draw,
    }


def _few_sizes(sizes: np.ndarray) -> np.ndarray:
    """Rounds class sizes, float64 [classes]: each becomes the mean of its bin on a log scale."""
    ratio = sizes.max() / sizes.min()
    if ratio <= _ALIKE:
        return np.full(len(sizes), sizes.mean())
    bins = min(_SIZES, math.ceil(math.log(ratio, _ALIKE)))
    place = np.log(sizes / sizes.min()) / np.log(ratio) * bins
    number = np.minimum(place.astype(int), bins - 1)
    sums, counts = np.bincount(number, sizes), np.bincount(number)
    return (sums / np.maximum(counts, 1))[number]


def _in_words(train: Any, setting: Mapping[str, Any]) -> str:
    words = f"{setting['classes']} classes in batches of {train.batch_size}"
    each = train.images_per_class
    return f"{words}, {each} images of a class" if each else words


def _leaves_out(config: ml_collections.ConfigDict, images: int) -> tuple[str, ...]:
    found = ["augmentation", f"the embedding's width ({images - 1:,} is assumed)"]
    if config.loss.cross_entropy_weight:
        found.append("cross-entropy")
    if METHODS[config.method].reconstruct:
        alone = config.model.arrangement == "shared"
        if not alone:
            found.append("the autoencoder's embedding, which is measured too")
        elif config.loss.reconstruction_weight:
            found.append("the autoencoder")
    if config.model.projection:
        found.append("the projection head, whose output has the loss")
    return tuple(found)
