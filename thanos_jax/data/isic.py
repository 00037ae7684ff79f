"""ISIC: skin lesions, benign or malignant; many images of benign lesions show a coloured patch.

The archive (isic-archive.com) has images and diagnoses, but not which images show a patch. A
network that relies on patches (Rieger et al., "Interpretations are Useful: Penalizing Explanations
to Align Neural Networks with Prior Knowledge", ICML 2020) is less accurate on benign lesions
without a patch. The groups are from Sohoni et al., "No Subclass Left Behind", NeurIPS 2020.

The user writes metadata.csv, with the columns filename (relative to its folder), benign_malignant
(benign or malignant, as in the archive) or malignant (0 or 1), patch (1 if the image shows one) and
perhaps split (train, validation or test); other columns are ignored. The coarse label is benign or
malignant. The fine label is the group: benign without patch, benign with patch, or malignant.
"""

from __future__ import annotations

from collections.abc import Mapping

from thanos_jax.data import layout
from thanos_jax.data.splits import DataError

CLASSES = ("benign", "malignant")
GROUPS = ("benign, no patch", "benign, patch", "malignant")

_LABELS = {"benign_malignant": CLASSES, "malignant": ("0", "1")}


def _classify(cells: Mapping[str, str], where: str) -> tuple[str, str, str]:
    malignant = _is_malignant(cells, where)
    patch = layout.one_of(cells, "patch", ("0", "1"), where) == "1"
    split = layout.one_of(cells, "split", layout.SPLITS, where) if "split" in cells else ""
    # As in the papers, malignant lesions are one group, with or without a patch.
    return CLASSES[malignant], GROUPS[2 if malignant else int(patch)], split


def _is_malignant(cells: Mapping[str, str], where: str) -> bool:
    columns = [column for column in _LABELS if column in cells]
    if len(columns) != 1:
        raise DataError(
            f"{where.rpartition(',')[0]}, line 1: expected one column benign_malignant or"
            f" malignant, got {' and '.join(columns) or 'neither'}"
        )
    options = _LABELS[columns[0]]
    return layout.one_of(cells, columns[0], options, where) == options[1]


LAYOUT = layout.Layout(
    name="isic",
    table="metadata.csv",
    expected="a folder that holds metadata.csv, with the columns filename, benign_malignant, patch"
    " and perhaps split (docs/data.md)",
    column="filename",
    required=("patch",),
    classify=_classify,
    pairs=list(zip((CLASSES[0], *CLASSES), GROUPS, strict=True)),
    mode="RGB",
)
