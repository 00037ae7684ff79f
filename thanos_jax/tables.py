"""The tables of the papers: what each varies, and what it shows.

A table is a function (config, methods, values) -> rows; a row is what it is called and what it sets
in the config. A new one is such a function and an entry of `TABLES`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from thanos_jax import config as schema
from thanos_jax.errors import ConfigError
from thanos_jax.train.objective import METHODS

# The papers' rows, in their order, and then ours.
_PAPER_ORDER = (
    *("info_nce", "supcon", "supcon_info_nce", "cauto", "spread", "supcon_cauto", "thanos"),
    *("ce", "joint"),
)


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      labels: what tells it from the other lines, by axis; the first axis is the method.
      overrides: config key -> value.
    """

    labels: Mapping[str, Any]
    overrides: Mapping[str, Any]


class Column(NamedTuple):
    """A number of every run.

    Attributes:
      path: its keys in results.json.
      title: for people.
      scale: what it is multiplied by.
      digits: after the point.
      plotted: whether the pictures show it.
    """

    path: tuple[str, ...]
    title: str
    scale: float = 100.0
    digits: int = 1
    plotted: bool = True


# Seed -> what a run's results.json holds.
Results = Mapping[int, Mapping[str, Any]]
Rows = Callable[[ml_collections.ConfigDict, Sequence[str], Sequence[str] | None], list[Row]]


class Table(NamedTuple):
    """What is varied and what is shown.

    Attributes:
      caption: one sentence.
      rows: (config, methods, values) -> rows; values are the first setting's, as text, or None for
        the table's own.
      columns: what is shown of every row.
      methods: those run if none are asked for.
      options: those that can be asked for.
      derived: (labels and results of every row) -> row by row, seed -> further numbers of a run
        that only the runs of other rows tell; None: there are none.
    """

    caption: str
    rows: Rows
    columns: tuple[Column, ...]
    methods: tuple[str, ...]
    options: tuple[str, ...] = tuple(METHODS)
    derived: Callable[[Sequence[tuple[Mapping[str, Any], Results]]], list[Results]] | None = None


FINE = Column(("fine_accuracy",), "fine")
NEIGHBOURS = Column(("fine_accuracy_knn",), "fine, nearest neighbours")
CLASS_MEANS = Column(("fine_accuracy_class_mean",), "fine, class means")
COARSE = Column(("coarse_accuracy",), "coarse")
COLLAPSE = Column(("geometry", "test", "collapse_index"), "collapse index", 1.0, 3)
SECONDS = Column(("train_seconds",), "seconds", 1.0, 1, plotted=False)


WORST_GROUP = Column(("worst_group_accuracy",), "worst group")
WORST_AUROC = Column(("worst_group_auroc",), "worst group, AUROC", plotted=False)
RECOVERY_F1 = Column(("recovery_f1",), "recovery F1")

# Rows of the table of groups; those of a representation recover groups from it.
_ROBUST: dict[str, dict[str, Any]] = {
    "erm": {"method": "ce", "groups.method": "erm"},
    "jtt": {"method": "ce", "groups.method": "jtt"},
    "george": {
        "method": "ce",
        "groups.method": "group_dro",
        "groups.choice": "silhouette",
    },
    **{method: {"method": method, "groups.method": "group_dro"} for method in METHODS},
    "group_dro_true": {"method": "ce", "groups.method": "group_dro_true"},
}


# Rows of the table of noise; mend_METHOD mends by METHOD's embedding.
_NOISY: dict[str, dict[str, Any]] = {
    **{name: {"method": "ce", "noise.method": name} for name in ("ce", "co_teaching", "elr")},
    **{f"mend_{method}": {"method": method, "noise.method": "mend"} for method in METHODS},
}


# Rows of the table of coresets; "all" is the whole training set. Forgetting and EL2N look at a
# classifier, as their authors do, common strata and herding at the config's method.
_CORESETS: dict[str, dict[str, Any]] = {
    "all": {"method": "ce", "coreset.method": "random", "coreset.fraction": 1.0},
    "random": {"method": "ce", "coreset.method": "random"},
    "common_strata": {"coreset.method": "common_strata"},
    "forgetting": {"method": "ce", "coreset.method": "forgetting"},
    "el2n": {"method": "ce", "coreset.method": "el2n"},
    "herding": {"coreset.method": "herding"},
}


def folder_name(row: Row) -> str:
    """Returns the row's name as a folder: the method, then each setting and its value."""
    method, *settings = row.labels.items()
    parts = [shown(method[1]), *(f"{axis}_{shown(value)}" for axis, value in settings)]
    return re.sub(r"[^\w.+-]+", "_", "_".join(parts))


def shown(value: Any) -> str:
    """Returns a label's value as people write it: 0.5, 1, crop."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def check_name(what: str, name: str, options: Sequence[str]) -> str:
    """Returns the name.

    Raises:
      ConfigError: it is none of the options; has the nearest of them.
    """
    if name not in options:
        near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{what}: expected one of {', '.join(options)}, got {name!r}{hint}")
    return name


def rows_of(
    name: str,
    config: ml_collections.ConfigDict,
    methods: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
) -> list[Row]:
    """Returns the rows of a table.

    Args:
      name: a key of `TABLES`.
      config: what the rows override.
      methods: keys of METHODS; None for the table's own.
      values: of the table's first setting, as written on the command line; None for its own.

    Raises:
      ConfigError: a name, method or value that does not fit, or a config without a key of the rows.
    """
    check_name("table", name, tuple(TABLES))
    table = TABLES[name]
    for method in methods or ():
        check_name(f"methods of {name}", method, table.options)
    chosen = tuple(dict.fromkeys(methods or table.methods))
    rows = table.rows(config, chosen, values)
    known = schema.flatten(config)
    folders = [folder_name(row) for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        for key in row.overrides:
            if key not in known:
                raise ConfigError(f"table {name}: the config has no key {key}")
        if folders.count(folder) > 1:
            raise ConfigError(f"table {name}: two rows are called {folder!r}")
    return rows


def configured(config: ml_collections.ConfigDict, row: Row, seed: int) -> ml_collections.ConfigDict:
    """Returns a copy of the config with what a row and a seed set."""
    one = config.copy_and_resolve_references()
    for key, value in {**row.overrides, "seed": seed}.items():
        *sections, name = key.split(".")
        node = one
        for section in sections:
            node = node[section]
        node[name] = value
    return one


def _numbers(
    axis: str, texts: Sequence[str] | None, own: Sequence[Any], kind: type[int] | type[float]
) -> list[Any]:
    if texts is None:
        return list(own)
    found = []
    for text in texts:
        try:
            found.append(kind(text))
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise ConfigError(f"values: expected {words} for each {axis}, got {text!r}") from None
    return list(dict.fromkeys(found))


def _coarse_to_fine(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    if values is not None:
        raise ConfigError(
            "values: coarse_to_fine has no setting to vary, only methods; got "
            + ",".join(map(str, values))
        )
    return [Row({"method": method}, {"method": method}) for method in methods]


def _joint_loss(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    betas = _numbers("beta", values, (0.0, 0.2, 0.5, 0.8, 1.0), float)
    return _crossed(methods, "beta", "loss.beta", betas)


def _embedding_size(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    """ResNets as Xue et al. widen them; of others the embedding alone, of an MLP its last layer."""
    encoder, own = config.model.encoder, [4, 16, 64, 256]
    if encoder.startswith("resnet"):
        return _crossed(
            methods, "width", "model.resnet.width", _numbers("width", values, (4, 64, 128), int)
        )
    widths = _numbers("width", values, own, int)
    if encoder != "mlp":
        return _crossed(methods, "width", "model.embedding_dim", widths)
    hidden = tuple(config.model.mlp.widths)[:-1]
    key = "model.mlp.widths"
    return [
        Row({"method": method, "width": width}, {"method": method, key: (*hidden, width)})
        for method in methods
        for width in widths
    ]


def _randbit(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    bits = _numbers("number of bits", values, (0, 5, 10, 15), int)
    return _crossed(methods, "bits", "data.random_bits", bits)


def _spread_sweep(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    """Alpha at the config's temperature, then the temperature at alpha 0.5."""
    alphas = _numbers("alpha", values, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), float)
    pairs = [(alpha, config.loss.temperature) for alpha in alphas]
    pairs += [(0.5, temperature) for temperature in (0.1, 0.2, 0.5, 1.0)]
    return [
        Row(
            {"method": method, "alpha": alpha, "temperature": temperature},
            {"method": method, "loss.alpha": alpha, "loss.temperature": temperature},
        )
        for method in methods
        for alpha, temperature in dict.fromkeys(pairs)
    ]


# Each adds to the one before. The last is the papers'; grey and hue leave one channel as it is.
_STRENGTHS: dict[str, dict[str, Any]] = {
    "none": {
        "augment.crop_scale": (1.0, 1.0),
        "augment.flip": 0.0,
        "augment.jitter_probability": 0.0,
        "augment.grey_probability": 0.0,
    }
}
_STRENGTHS["crop"] = {**_STRENGTHS["none"], "augment.crop_scale": (0.2, 1.0)}
_STRENGTHS["crop+flip"] = {**_STRENGTHS["crop"], "augment.flip": 0.5}
_STRENGTHS["full"] = {
    **_STRENGTHS["crop+flip"],
    "augment.jitter_probability": 0.8,
    "augment.grey_probability": 0.2,
}
for _strength in _STRENGTHS.values():
    _strength.update({"augment.crop_ratio": (3 / 4, 4 / 3), "augment.jitter": (0.4, 0.4, 0.4, 0.1)})


def _augmentation(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    strengths = tuple(dict.fromkeys(_STRENGTHS if values is None else values))
    for strength in strengths:
        check_name("values", strength, tuple(_STRENGTHS))
    return [
        Row(
            {"method": method, "augmentation": strength},
            {"method": method, **_STRENGTHS[strength]},
        )
        for method in methods
        for strength in strengths
    ]


def _groups(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    if values is not None:
        raise ConfigError(
            "values: groups has no setting to vary, only methods; got " + ",".join(map(str, values))
        )
    return [Row({"method": name}, {"task": "groups", **_ROBUST[name]}) for name in methods]


def _recovery(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    choices = tuple(dict.fromkeys((config.groups.choice,) if values is None else values))
    for choice in choices:
        check_name("values", choice, ("error", "silhouette"))
    return [
        Row(
            {"method": method, "choice": choice},
            {
                "task": "groups",
                "method": method,
                "groups.method": "none",
                "groups.choice": choice,
            },
        )
        for method in methods
        for choice in choices
    ]


def _noise(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    """With cross-entropy on noisy and on right labels, by which the others are judged."""
    rates = _numbers("rate", values, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), float)
    rows = [(method, rate) for rate in rates for method in ("ce", *methods)]
    pairs = [("ce", 0.0), *rows]
    return [
        Row(
            {"method": method, "noise": rate},
            {"task": "noise", **_NOISY[method], "noise.rate": rate},
        )
        for method, rate in dict.fromkeys(pairs)
    ]


def _recovered(lines: Sequence[tuple[Mapping[str, Any], Results]]) -> list[Results]:
    """Of the accuracy that noise costs cross-entropy, the share that each run does not lose.

    (accuracy - that of ce under the same noise) / (that of ce on right labels - that of ce under
    the same noise), of the same seed; none where ce loses nothing.
    """
    accuracy = {
        (labels["method"], labels["noise"], seed): run["coarse_accuracy"]
        for labels, results in lines
        for seed, run in results.items()
    }
    shares: list[Results] = []
    for labels, results in lines:
        found = {}
        for seed, run in results.items():
            right = accuracy.get(("ce", 0.0, seed))
            noisy = accuracy.get(("ce", labels["noise"], seed))
            if right is not None and noisy is not None and noisy < right:
                share = (run["coarse_accuracy"] - noisy) / (right - noisy)
                found[seed] = {"recovered": share}
        shares.append(found)
    return shares


def _coreset(config: Any, methods: Sequence[str], values: Sequence[str] | None) -> list[Row]:
    """Of the whole training set one row, whatever the fractions."""
    fractions = _numbers("fraction", values, (0.1, 0.3, 0.5), float)
    pairs = [
        (method, fraction)
        for method in methods
        for fraction in ((1.0,) if method == "all" else fractions)
    ]
    return [
        Row(
            {"method": method, "fraction": fraction},
            {"task": "coreset", "coreset.fraction": fraction, **_CORESETS[method]},
        )
        for method, fraction in pairs
    ]


def _crossed(methods: Sequence[str], axis: str, key: str, values: Sequence[Any]) -> list[Row]:
    return [
        Row({"method": method, axis: value}, {"method": method, key: value})
        for method in methods
        for value in values
    ]


TABLES: dict[str, Table] = {
    "coarse_to_fine": Table(
        "Coarse-to-fine transfer: trained on coarse labels, tested on fine ones",
        _coarse_to_fine,
        (FINE, NEIGHBOURS, CLASS_MEANS, COARSE, COLLAPSE, SECONDS),
        methods=(*_PAPER_ORDER, *(method for method in METHODS if method not in _PAPER_ORDER)),
    ),
    "joint_loss": Table(
        "The joint loss, beta SupCon + (1 - beta) InfoNCE",
        _joint_loss,
        (FINE, NEIGHBOURS, COARSE, COLLAPSE, SECONDS),
        methods=("joint",),
        options=("joint",),
    ),
    "embedding_size": Table(
        "Width of the encoder, or of its embedding",
        _embedding_size,
        (FINE, NEIGHBOURS, COARSE, COLLAPSE, SECONDS),
        methods=("supcon", "info_nce", "joint"),
    ),
    "randbit": Table(
        "Random bits that both views of an image share, as an easy feature",
        _randbit,
        (FINE, NEIGHBOURS, COARSE, COLLAPSE, SECONDS),
        methods=("info_nce", "joint", "supcon", "spread"),
    ),
    "spread_sweep": Table(
        "The spread loss: weight of the spreading term, and temperature",
        _spread_sweep,
        (COLLAPSE, FINE, NEIGHBOURS, COARSE, SECONDS),
        methods=("spread",),
        options=("spread", "thanos"),
    ),
    "augmentation": Table(
        "Strength of augmentation",
        _augmentation,
        (FINE, NEIGHBOURS, COARSE, COLLAPSE, SECONDS),
        methods=("info_nce", "supcon", "spread", "thanos"),
    ),
    "groups": Table(
        "The worst of the hidden groups",
        _groups,
        (WORST_GROUP, Column(("coarse_accuracy",), "average"), RECOVERY_F1, WORST_AUROC, SECONDS),
        methods=("erm", "jtt", "george", "supcon", "spread", "thanos", "group_dro_true"),
        options=tuple(_ROBUST),
    ),
    "recovery": Table(
        "Hidden groups, recovered from the embeddings of each method",
        _recovery,
        (
            RECOVERY_F1,
            Column(("recovery", "adjusted_rand"), "adjusted Rand index"),
            Column(("recovery", "rarest_recall"), "recall of the rarest group"),
            Column(("recovery", "rarest_precision"), "its precision", plotted=False),
            Column(("recovered_groups",), "groups", 1.0, 1, plotted=False),
            FINE,
            SECONDS,
        ),
        methods=("ce", "supcon", "spread", "thanos"),
    ),
    "noise": Table(
        "Noisy labels: accuracy on right ones, and how well wrong ones are found",
        _noise,
        (
            Column(("coarse_accuracy",), "accuracy"),
            Column(("coarse_accuracy_chosen",), "stopped early", plotted=False),
            Column(("recovered",), "recovered"),
            Column(("detection", "auroc"), "AUROC of detection"),
            Column(("detection", "precision"), "precision", plotted=False),
            Column(("detection", "recall"), "recall", plotted=False),
            Column(("labels_right",), "labels right after mending"),
            SECONDS,
        ),
        methods=("ce", "co_teaching", "elr", "mend_ce", "mend_supcon", "mend_spread"),
        options=tuple(_NOISY),
        derived=_recovered,
    ),
    "coreset": Table(
        "Coresets: a classifier trained on the images that are kept",
        _coreset,
        (
            Column(("coarse_accuracy",), "accuracy"),
            Column(("worst_group_accuracy",), "worst fine class"),
            Column(("kept_images",), "images", 1.0, 0, plotted=False),
            SECONDS,
        ),
        methods=tuple(_CORESETS),
        options=tuple(_CORESETS),
    ),
}
