"""Waterbirds: birds on backgrounds that go with their class, in the layout of group DRO's code.

Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts",
ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from thanos_jax.data import folder
from thanos_jax.data.dataset import Dataset

FOLDER = "waterbird_complete95_forest2water2"
TABLE = "metadata.csv"
CLASSES = ("landbird", "waterbird")
# Group 2 * y + place.
GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
# Mean and standard deviation of ImageNet's channels, with which the papers normalize.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load(config_data: ConfigDict) -> Dataset:
    """Loads Waterbirds.

    `data_dir` holds metadata.csv, with the columns img_filename (below data_dir), y (1 for a
    waterbird), place (1 for water) and split (0 training, 1 validation, 2 test); the others that
    are distributed with it are not read. The coarse label is y, the fine label the group
    2 * y + place. Images become RGB.

    Args:
      config_data: `config.data`. data_dir is the folder
        waterbird_complete95_forest2water2 or the one that holds it. image_size may be 0 only if
        all images have one size, which those distributed have not.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no metadata.csv.
      DataError: a table or an image that cannot be used; names the line and the file.
    """
    table = folder.find(
        config_data.data_dir,
        TABLE,
        f"the folder {FOLDER} of Waterbirds, with {TABLE} in it, or the one that holds it"
        " (docs/data.md says where it comes from)",
        inside=FOLDER,
    )
    return folder.from_rows(
        config_data,
        folder.read_rows(table, "img_filename", ("y", "split", "place"), _classify),
        name="waterbirds",
        table=table,
        coarse_names=CLASSES,
        pairs=[(CLASSES[group // 2], name) for group, name in enumerate(GROUPS)],
        fine_names=GROUPS,
        mode="RGB",
        units=IMAGENET,
    )


def _classify(cells: Mapping[str, str], where: str) -> tuple[str, str, str]:
    y, place = (int(folder.one_of(cells, name, ("0", "1"), where)) for name in ("y", "place"))
    split = folder.SPLITS[int(folder.one_of(cells, "split", ("0", "1", "2"), where))]
    return CLASSES[y], GROUPS[2 * y + place], split
