"""ISIC: skin lesions, benign or malignant; beside many of the benign ones is a coloured patch.

The archive (isic-archive.com) has the images and diagnoses but does not say which images show a
patch. A network that looks for patches (Rieger et al., "Interpretations are Useful: Penalizing
Explanations to Align Neural Networks with Prior Knowledge", ICML 2020) does worse on benign lesions
without: the groups of Sohoni et al., "No Subclass Left Behind", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from thanos_jax.data import folder
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import DataError

TABLE = "metadata.csv"
CLASSES = ("benign", "malignant")
GROUPS = ("benign, no patch", "benign, patch", "malignant")

_LABELS = {"benign_malignant": CLASSES, "malignant": ("0", "1")}


def load(config_data: ConfigDict) -> Dataset:
    """Loads ISIC from a folder that the user has put together.

    `data_dir` holds metadata.csv, with the columns filename (below data_dir), benign_malignant
    (benign or malignant, as in the archive) or malignant (0 or 1), patch (1 if the image shows
    one) and perhaps split (train, validation or test); other columns are ignored. Without a split
    column, or without validation rows, images are split as in `folder.load`. The coarse label is
    benign or malignant, the fine label the group: benign without patch, benign with patch,
    malignant. Images become RGB; mean and standard deviation are those of the training images, or
    of 10,000 drawn from them.

    Args:
      config_data: `config.data`. image_size may be 0 only if all images have
        one size.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no metadata.csv.
      DataError: a table or an image that cannot be used; names the line and the file.
    """
    table = folder.find(
        config_data.data_dir,
        TABLE,
        f"a folder that holds {TABLE}, with the columns filename, benign_malignant, patch and"
        " perhaps split (docs/data.md)",
    )
    return folder.from_rows(
        config_data,
        folder.read_rows(table, "filename", ("patch",), _classify),
        name="isic",
        table=table,
        coarse_names=CLASSES,
        pairs=[(CLASSES[0], GROUPS[0]), (CLASSES[0], GROUPS[1]), (CLASSES[1], GROUPS[2])],
        fine_names=GROUPS,
        mode="RGB",
    )


def _classify(cells: Mapping[str, str], where: str) -> tuple[str, str, str]:
    malignant = _is_malignant(cells, where)
    patch = folder.one_of(cells, "patch", ("0", "1"), where) == "1"
    split = folder.one_of(cells, "split", folder.SPLITS, where) if "split" in cells else ""
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
    return folder.one_of(cells, columns[0], options, where) == options[1]
