"""Waterbirds: birds on backgrounds that go with their class, in the layout of group DRO's code.

Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts",
ICLR 2020.
"""

from __future__ import annotations

import os

from ml_collections import ConfigDict

from thanos_jax.data import folder
from thanos_jax.data.dataset import Dataset, read_table
from thanos_jax.data.prepared import DatasetNotFound

FOLDER = "waterbird_complete95_forest2water2"
TABLE = "metadata.csv"
CLASSES = ("landbird", "waterbird")
# Group 2 * y + place.
GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
# Mean and standard deviation of ImageNet's channels, with which the papers normalize.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_COLUMNS = ("img_filename", "y", "split", "place")


def load(config_data: ConfigDict) -> Dataset:
    """Loads Waterbirds.

    `data_dir` holds metadata.csv, with the columns img_filename (below data_dir), y (1 for a
    waterbird), place (1 for water) and split (0 training, 1 validation, 2 test); the others that
    are distributed with it are not read. The coarse label is y, the fine label the group
    2 * y + place. Images become RGB.

    Args:
      config_data: `config.data`; see `sources.load`. data_dir is the folder
        waterbird_complete95_forest2water2 or the one that holds it. image_size may be 0 only if
        all images have one size, which those distributed have not.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no metadata.csv.
      DataError: a table or an image that cannot be used; names the line and the file.
    """
    root = _find(config_data.data_dir)
    return folder.from_rows(
        config_data,
        read_rows(root),
        name="waterbirds",
        table=os.path.join(root, TABLE),
        coarse_names=CLASSES,
        pairs=[(CLASSES[group // 2], name) for group, name in enumerate(GROUPS)],
        fine_names=GROUPS,
        mode="RGB",
        units=IMAGENET,
    )


def read_rows(root: str) -> list[folder.Row]:
    """Reads and checks metadata.csv.

    Args:
      root: the folder that holds it.

    Returns:
      Its rows, in order; at least one.

    Raises:
      DataError: a row that cannot be used, or a file that is not there.
    """
    table = os.path.join(root, TABLE)
    rows: list[folder.Row] = []
    line_of: dict[str, int] = {}
    for line, cells in read_table(table, _COLUMNS):
        where = f"{table}, line {line}"
        y, place = (int(folder.one_of(cells, name, ("0", "1"), where)) for name in ("y", "place"))
        split = folder.SPLITS[int(folder.one_of(cells, "split", ("0", "1", "2"), where))]
        filename = folder.check_file(cells, "img_filename", root, where, line_of)
        line_of[filename] = line
        rows.append(folder.Row(line, filename, CLASSES[y], GROUPS[2 * y + place], split))
    folder.check_any(rows, table)
    return rows


def _find(data_dir: str) -> str:
    given = os.path.expanduser(data_dir)
    for root in (os.path.join(given, FOLDER), given):
        if given and os.path.isfile(os.path.join(root, TABLE)):
            return root
    raise DatasetNotFound(
        f"data.data_dir: expected the folder {FOLDER} of Waterbirds, with {TABLE} in it, or the"
        f" one that holds it, got {data_dir!r}; docs/data.md says where it comes from"
    )
