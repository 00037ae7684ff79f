"""The numbers that the papers report, by table, data set and row; accuracies in per cent.

A row is identified by its config keys. If a paper leaves open to which of our rows a number
belongs, the number is a remark under the table instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from thanos_jax.config import FIELDS

# Name in the tables -> what the paper did, for the note under the table.
PAPERS = {
    "Chen et al. 2022": "Perfectly Balanced, ICML 2022, arXiv 2204.07596: two ViT encoders, AdamW, "
    "batch 128, 600 epochs",
    "Xue et al. 2023": "Which Features are Learnt by Contrastive Learning?, ICML 2023, "
    "arXiv 2305.16536: ResNet18, SGD, batch 512, 1000 epochs",
}


class Number(NamedTuple):
    """A number of a paper.

    Attributes:
      mean: in per cent.
      deviation: the number after ± in the paper; None: there is none.
      paper: a key of `PAPERS`.
    """

    mean: float
    deviation: float | None
    paper: str


Row = tuple[tuple[str, Any], ...]  # config keys and their values
Numbers = Mapping[str, Number]  # by key of results.json


# Rows of table 3.
_TABLE_3 = ("info_nce", "supcon", "supcon_info_nce", "cauto", "spread", "supcon_cauto", "thanos")


def _table_3(means: Sequence[float], deviations: Sequence[float]) -> dict[Row, Numbers]:
    return {
        (("method", method),): {"fine_accuracy": Number(mean, deviation, "Chen et al. 2022")}
        for method, mean, deviation in zip(_TABLE_3, means, deviations, strict=True)
    }


# Rows of table 4: recovered groups, and classifiers. George clusters the embedding of a classifier.
# The paper does not say how its own embedding and SupCon's were clustered.
_RECOVERED: dict[str, Row] = {
    "george": (("method", "ce"), ("groups.choice", "silhouette")),
    "supcon": (("method", "supcon"),),
    "thanos": (("method", "thanos"),),
}
_CLASSIFIED: dict[str, Row] = {
    **{name: (*row, ("groups.method", "group_dro")) for name, row in _RECOVERED.items()},
    "jtt": (("groups.method", "jtt"),),
    "group_dro": (("groups.method", "group_dro_true"),),
}


def _table_4(key: str, **means: float) -> dict[Row, Numbers]:
    rows = _RECOVERED if key == "recovery_f1" else _CLASSIFIED
    return {rows[row]: {key: Number(mean, None, "Chen et al. 2022")} for row, mean in means.items()}


def _xue(fine: float, coarse: float | None = None) -> Numbers:
    numbers = {"fine_accuracy": Number(fine, None, "Xue et al. 2023")}
    if coarse is not None:
        numbers["coarse_accuracy"] = Number(coarse, None, "Xue et al. 2023")
    return numbers


def _width(width: int) -> Row:
    # RandBit and narrow encoders are the authors' example of suppression without labels.
    return (
        ("method", "info_nce"),
        ("data.random_bits", 2),
        ("model.encoder", "resnet18"),
        ("model.resnet.width", width),
    )


# Table -> data set -> row -> key of results.json -> number.
NUMBERS: dict[str, dict[str, dict[Row, Numbers]]] = {
    # Chen et al. 2022, table 3.
    "coarse_to_fine": {
        "cifar10": _table_3(
            (77.6, 51.8, 77.6, 71.4, 77.1, 71.7, 79.1), (0.1, 1.2, 0.1, 0.1, 0.1, 0.1, 0.2)
        ),
        "cifar100": _table_3(
            (60.5, 56.1, 55.7, 62.9, 58.7, 63.8, 65.0), (0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 0.2)
        ),
        "cifar100_u": _table_3(
            (56.4, 49.8, 48.0, 58.7, 53.5, 59.8, 59.7), (0.3, 0.3, 0.2, 0.5, 0.4, 0.3, 0.3)
        ),
        "mnist": _table_3(
            (98.4, 95.4, 98.6, 98.7, 98.5, 98.7, 99.0), (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
        ),
        "tiny_imagenet": _table_3(
            (44.9, 43.9, 46.1, 47.1, 45.8, 49.3, 49.6), (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
        ),
    },
    # SupCon alone is the joint loss at 1.
    "joint_loss": {
        "cifar100": {
            (("method", "joint"), ("loss.beta", 0.8)): _xue(41.37),
            (("method", "joint"), ("loss.beta", 1.0)): _xue(26.11),
        },
    },
    "embedding_size": {
        "cifar10": {
            _width(4): _xue(34.38, coarse=86.73),
            _width(64): _xue(71.96, coarse=96.82),
            _width(128): _xue(76.69, coarse=97.65),
        },
    },
    "randbit": {
        "cifar100": {
            (("method", "supcon"), ("data.random_bits", 1)): _xue(28.13, coarse=61.10),
            (("method", "info_nce"), ("data.random_bits", 1)): _xue(34.11, coarse=52.32),
            (("method", "joint"), ("data.random_bits", 1), ("loss.beta", 0.8)): _xue(
                35.72, coarse=63.94
            ),
        },
    },
    # Chen et al. 2022, table 4: F1 of the groups recovered from the embedding.
    "recovery": {
        "waterbirds": _table_4("recovery_f1", george=56.3, supcon=47.1, thanos=59.0),
        "isic": _table_4("recovery_f1", george=74.0, supcon=92.5, thanos=93.8),
        "celeb_a": _table_4("recovery_f1", george=24.2, supcon=19.4, thanos=24.8),
    },
    # The same table: the worst group, by accuracy; ISIC's by area under the ROC curve.
    "groups": {
        "waterbirds": _table_4(
            "worst_group_accuracy", george=88.4, supcon=86.8, thanos=88.6, jtt=83.8, group_dro=90.7
        ),
        "isic": _table_4(
            "worst_group_auroc", george=92.0, supcon=93.3, thanos=92.6, jtt=91.8, group_dro=92.3
        ),
        "celeb_a": _table_4(
            "worst_group_accuracy", george=55.0, supcon=66.1, thanos=89.4, jtt=77.9, group_dro=88.9
        ),
    },
}

_GROUPS_PROTOCOL = (
    "Chen et al. 2022 say neither how groups are clustered and classifiers trained nor which F1 "
    "they mean; here it is done as docs/groups.md says."
)

# Table -> data set -> what to know about a paper's numbers, and numbers without a row.
REMARKS: dict[str, dict[str, str]] = {
    "coarse_to_fine": {
        "tiny_imagenet": "Chen et al. 2022 use 67 superclasses that could not be had; with other "
        "coarse labels their numbers and ours are not of the same task.",
    },
    **{
        table: dict.fromkeys(("waterbirds", "isic", "celeb_a"), _GROUPS_PROTOCOL)
        for table in ("groups", "recovery")
    },
    "embedding_size": {
        "cifar10": "Which loss the numbers of Xue et al. 2023 are of was not known here; info_nce "
        "is our reading.",
    },
    "randbit": {
        "mnist": "Xue et al. 2023 report for MNIST-RandBit (5, 10 or 15 bits; which of them is not "
        "known here) a fine accuracy of 61.21 for info_nce and 79.37 for joint at beta 0.5.",
    },
}

# Keys of `data` that do not make it another data set than the paper's.
SAME_DATA = (
    "data.name",
    "data.data_dir",
    "data.cache",
    "data.validation_fraction",
    "data.split_seed",
    "data.image_size",
    "data.decode",
    "data.random_bits_form",
    "data.memory_limit_gib",
    "data.on_damaged",
    "data.read_threads",
    "data.max_megapixels",
)


def reported(table: str, settings: Mapping[str, Any]) -> dict[str, Number]:
    """Returns the papers' numbers for a row, by key of results.json; {} if they report none.

    Args:
      table: a key of `thanos_jax.tables.definitions.TABLES`.
      settings: the row's whole config, flat.
    """
    for row, numbers in NUMBERS.get(table, {}).get(settings["data.name"], {}).items():
        named = dict(row)
        if all(settings.get(key) == value for key, value in row) and all(
            # Anything else that changes the images makes it another data set.
            key in named or key in SAME_DATA or value == FIELDS[key].default
            for key, value in settings.items()
            if key.startswith("data.")
        ):
            return dict(numbers)
    return {}
