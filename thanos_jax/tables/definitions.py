"""The tables of the papers: what each varies and shows. A new table is a new entry of `TABLES`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from thanos_jax.methods import METHODS, NOISE
from thanos_jax.tables.table import Axis, Column, Results, Table

FINE = Column("fine_accuracy", "fine")
VALIDATION = Column("fine_accuracy_validation", "fine, validation", plotted=False)
NEIGHBOURS = Column("fine_accuracy_knn")
COARSE = Column("coarse_accuracy", "coarse")
ACCURACY = Column("coarse_accuracy", "accuracy")
COLLAPSE = Column("geometry.test.collapse_index")
RECOVERY_F1 = Column("recovery_f1")
SECONDS = Column("train_seconds", "seconds", plotted=False)
_TRANSFER = (FINE, NEIGHBOURS, COARSE, COLLAPSE, SECONDS)

_REPRESENTATIONS = {method: {"method": method} for method in METHODS}

# Each adds to the one before. The last is the papers'. Grey and hue do not change grey images.
_STRENGTHS: dict[str, dict[str, Any]] = {
    "none": {
        "augment.crop_scale": (1.0, 1.0),
        "augment.flip": 0.0,
        "augment.jitter_probability": 0.0,
        "augment.grey_probability": 0.0,
        "augment.crop_ratio": (3 / 4, 4 / 3),
        "augment.jitter": (0.4, 0.4, 0.4, 0.1),
    }
}
_STRENGTHS["crop"] = {**_STRENGTHS["none"], "augment.crop_scale": (0.2, 1.0)}
_STRENGTHS["crop+flip"] = {**_STRENGTHS["crop"], "augment.flip": 0.5}
_STRENGTHS["full"] = {
    **_STRENGTHS["crop+flip"],
    "augment.jitter_probability": 0.8,
    "augment.grey_probability": 0.2,
}


def _width(config: ml_collections.ConfigDict) -> tuple[Axis, ...]:
    """Varies a ResNet's width as Xue et al. do, an MLP's last layer, or another's embedding."""
    if config.model.encoder.startswith("resnet"):
        return (Axis("width", "model.resnet.width", (4, 64, 128)),)
    widths = (4, 16, 64, 256)
    if config.model.encoder == "mlp":
        hidden = tuple(config.model.mlp.widths)[:-1]
        return (Axis("width", "model.mlp.widths", widths, before=hidden),)
    return (Axis("width", "model.embedding_dim", widths),)


def _tuned(config: ml_collections.ConfigDict) -> tuple[Axis, ...]:
    """Temperatures, and the config's learning rate and half of it."""
    rate = config.train.learning_rate
    return (
        Axis("temperature", "loss.temperature", (0.1, 0.2, 0.5)),
        Axis("rate", "train.learning_rate", (rate / 2, rate), noun="learning rate"),
    )


def _recovered(lines: Sequence[tuple[Mapping[str, Any], Results]]) -> list[Results]:
    """Returns the share that each run regains of the accuracy that cross-entropy loses by noise.

    (accuracy - noisy) / (clean - noisy), where noisy and clean are the accuracies of ce with the
    same seed on labels with the same noise and on clean labels. There is none if ce loses nothing.
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
            clean = accuracy.get(("ce", 0.0, seed), 0.0)
            noisy = accuracy.get(("ce", labels["noise"], seed), clean)
            if noisy < clean:
                share = (run["coarse_accuracy"] - noisy) / (clean - noisy)
                found[seed] = {"recovered": share}
        shares.append(found)
    return shares


TABLES: dict[str, Table] = {
    "coarse_to_fine": Table(
        "Coarse-to-fine transfer: trained on coarse labels, tested on fine ones",
        _REPRESENTATIONS,
        (FINE, NEIGHBOURS, Column("fine_accuracy_class_mean"), COARSE, COLLAPSE, SECONDS),
        # The paper's rows, in their order, and then ours.
        methods=(
            *("info_nce", "supcon", "supcon_info_nce", "cauto", "spread", "supcon_cauto"),
            *("thanos", "ce", "joint"),
        ),
    ),
    "joint_loss": Table(
        "The joint loss, beta SupCon + (1 - beta) InfoNCE",
        {"joint": {"method": "joint"}},
        _TRANSFER,
        methods=("joint",),
        axes=(Axis("beta", "loss.beta", (0.0, 0.2, 0.5, 0.8, 1.0)),),
    ),
    "embedding_size": Table(
        "Width of the encoder, or of its embedding",
        _REPRESENTATIONS,
        _TRANSFER,
        methods=("supcon", "info_nce", "joint"),
        axes=_width,
    ),
    "randbit": Table(
        "Random bits that both views of an image share, as an easy feature",
        _REPRESENTATIONS,
        _TRANSFER,
        methods=("info_nce", "joint", "supcon", "spread"),
        axes=(Axis("bits", "data.random_bits", (0, 5, 10, 15), noun="number of bits"),),
    ),
    "spread_sweep": Table(
        "The spread loss: weight of the spreading term, and temperature",
        {method: {"method": method} for method in ("spread", "thanos")},
        (COLLAPSE, FINE, NEIGHBOURS, COARSE, SECONDS),
        methods=("spread",),
        axes=(
            Axis("alpha", "loss.alpha", (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), at=0.5),
            Axis("temperature", "loss.temperature", (0.1, 0.2, 0.5, 1.0)),
        ),
    ),
    "tuning": Table(
        "Temperature and learning rate of each method: accuracy on validation, not on test",
        _REPRESENTATIONS,
        (VALIDATION, SECONDS),
        methods=("supcon", "thanos"),
        axes=_tuned,
        grid=True,
    ),
    "reconstruction": Table(
        "Weight of the autoencoder's reconstruction loss: accuracy on validation, not on test",
        {method: {"method": method} for method in ("cauto", "supcon_cauto", "thanos")},
        (VALIDATION, SECONDS),
        methods=("cauto",),
        axes=(Axis("weight", "loss.reconstruction_weight", (0.1, 0.3, 1.0, 4.0)),),
    ),
    "augmentation": Table(
        "Strength of augmentation",
        _REPRESENTATIONS,
        _TRANSFER,
        methods=("info_nce", "supcon", "spread", "thanos"),
        axes=(Axis("augmentation", "", tuple(_STRENGTHS), options=_STRENGTHS),),
    ),
    "groups": Table(
        "The worst of the hidden groups",
        # Groups of a representation are recovered from it.
        {
            "erm": {"method": "ce", "groups.method": "erm"},
            "jtt": {"method": "ce", "groups.method": "jtt"},
            "george": {
                "method": "ce",
                "groups.method": "group_dro",
                "groups.choice": "silhouette",
            },
            **{method: {"method": method, "groups.method": "group_dro"} for method in METHODS},
            "group_dro_true": {"method": "ce", "groups.method": "group_dro_true"},
        },
        (
            Column("worst_group_accuracy"),
            Column("coarse_accuracy", "average"),
            RECOVERY_F1,
            Column("worst_group_auroc", plotted=False),
            SECONDS,
        ),
        methods=("erm", "jtt", "george", "supcon", "spread", "thanos", "group_dro_true"),
        sets={"task": "groups"},
    ),
    "recovery": Table(
        "Hidden groups, recovered from the embeddings of each method",
        {method: {"method": method, "groups.method": "none"} for method in METHODS},
        (
            RECOVERY_F1,
            Column("recovery.adjusted_rand"),
            Column("recovery.rarest_recall"),
            Column("recovery.rarest_precision", "its precision", plotted=False),
            Column("recovered_groups", "groups", plotted=False),
            FINE,
            SECONDS,
        ),
        methods=("ce", "supcon", "spread", "thanos"),
        axes=(
            Axis(
                "choice",
                "groups.choice",
                options={name: {"groups.choice": name} for name in ("error", "silhouette")},
            ),
        ),
        sets={"task": "groups"},
    ),
    "noise": Table(
        "Noisy labels: accuracy on right ones, and how well wrong ones are found",
        # mend_METHOD repairs labels by METHOD's embedding.
        {
            **{
                name: {"method": "ce", "noise.method": name}
                for name, method in NOISE.items()
                if not method.needs
            },
            **{f"mend_{name}": {"method": name, "noise.method": "mend"} for name in METHODS},
        },
        (
            ACCURACY,
            Column("coarse_accuracy_chosen", plotted=False),
            Column("recovered"),
            Column("detection.auroc", "AUROC of detection"),
            Column("detection.precision", plotted=False),
            Column("detection.recall", plotted=False),
            Column("labels_right"),
            SECONDS,
        ),
        methods=("ce", "co_teaching", "elr", "mend_ce", "mend_supcon", "mend_spread"),
        axes=(Axis("noise", "noise.rate", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), at=0.0, noun="rate"),),
        sets={"task": "noise"},
        baseline="ce",
        derived=_recovered,
    ),
    "coreset": Table(
        "Coresets: a classifier trained on the images that are kept",
        # "all" is the whole training set. Forgetting and EL2N score images with a classifier, as
        # their authors do; common strata and herding use the config's method.
        {
            "all": {"method": "ce", "coreset.method": "random"},
            "random": {"method": "ce", "coreset.method": "random"},
            "common_strata": {"coreset.method": "common_strata"},
            "forgetting": {"method": "ce", "coreset.method": "forgetting"},
            "el2n": {"method": "ce", "coreset.method": "el2n"},
            "herding": {"coreset.method": "herding"},
        },
        (
            ACCURACY,
            Column("worst_group_accuracy", "worst fine class"),
            Column("kept_images", "images", plotted=False),
            SECONDS,
        ),
        methods=("all", "random", "common_strata", "forgetting", "el2n", "herding"),
        axes=(Axis("fraction", "coreset.fraction", (0.1, 0.3, 0.5), at=1.0),),
        sets={"task": "coreset", "coreset.fraction": 1.0},
        once=("all",),
    ),
}
