"""ISIC: skin lesions, benign or malignant; beside many of the benign ones is a coloured patch.

The archive (isic-archive.com) has the images and diagnoses but does not say which images show a
patch. A network that looks for patches (Rieger et al., "Interpretations are Useful: Penalizing
Explanations to Align Neural Networks with Prior Knowledge", ICML 2020) does worse on benign lesions
without: the groups of Sohoni et al., "No Subclass Left Behind", NeurIPS 2020.

The user puts together metadata.csv, with the columns filename (below its folder), benign_malignant
(benign or malignant, as in the archive) or malignant (0 or 1), patch (1 if the image shows one) and
perhaps split (train, validation or test); other columns are ignored. The coarse label is benign or
malignant, the fine label the group: benign without patch, benign with patch, malignant.
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
    # Malignant lesions beside a patch are no group of their own: the papers know of none.
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
