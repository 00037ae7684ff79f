"""Waterbirds: birds on backgrounds that correlate with their class, as in group DRO's code.

metadata.csv has the columns img_filename (relative to its folder), y (1 for a waterbird), place (1
for water) and split (0 training, 1 validation, 2 test); its other columns are not read. The coarse
label is y, the fine label the group 2 * y + place. The distributed images differ in size, so that
`image_size` must not be 0.

Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts",
ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping

from thanos_jax.data import layout

FOLDER = "waterbird_complete95_forest2water2"
CLASSES = ("landbird", "waterbird")
# Group 2 * y + place.
GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")


def _classify(cells: Mapping[str, str], where: str) -> tuple[str, str, str]:
    y, place = (int(layout.one_of(cells, name, ("0", "1"), where)) for name in ("y", "place"))
    split = layout.SPLITS[int(layout.one_of(cells, "split", ("0", "1", "2"), where))]
    return CLASSES[y], GROUPS[2 * y + place], split


LAYOUT = layout.Layout(
    name="waterbirds",
    table="metadata.csv",
    expected=f"the folder {FOLDER} of Waterbirds, with metadata.csv in it, or the one that holds it"
    " (docs/data.md says where it comes from)",
    column="img_filename",
    required=("y", "split", "place"),
    classify=_classify,
    pairs=[(CLASSES[group // 2], name) for group, name in enumerate(GROUPS)],
    inside=FOLDER,
    mode="RGB",
    # Mean and std of ImageNet, as in the papers.
    units=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
