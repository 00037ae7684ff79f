"""Data sets that TFDS serves without files, decoded: random content under `tfds.testing.mock_data`.

For tests of configs and programs without the data. Prepared files are read by `prepared`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from thanos_jax.data import labels
from thanos_jax.data.prepared import resize
from thanos_jax.data.splits import RecordSplit


def open_split(
    tfds_name: str, data_dir: str, split: str, *, dataset: str, image_size: int
) -> RecordSplit | None:
    """Opens one split.

    Args:
      tfds_name: TFDS's name of the data set.
      data_dir: as in `prepared.find`, which found no copy there.
      split: name of the split, as in "train".
      dataset: name of ours whose labels are wanted, as in "cifar100_u".
      image_size: side of the square the images are resized to; 0 to leave them as they come.

    Returns:
      The split, or None where TFDS serves only prepared files, as it does outside of
      `mock_data`.
    """
    import tensorflow_datasets as tfds

    try:
        # A split by itself: records are fetched by one number, which is all that a mock answers.
        records = tfds.builder(tfds_name, data_dir=data_dir or None).as_data_source(split=split)
    except NotImplementedError:
        return None
    height, width, channels = records[0]["image"].shape
    return RecordSplit(
        _Records(records),
        lambda example: _decode(cast(Mapping[str, Any], example), dataset, image_size),
        image_shape=(image_size or height, image_size or width, channels),
        num_fine=len(labels.fine_names(dataset)),
        num_coarse=len(labels.coarse_names(dataset)),
        dataset=dataset,
        split=split,
        file_of=lambda number: "no file: served by TFDS",
    )


class _Records:
    def __init__(self, records: Any) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Any:
        return self._records[number]


def _decode(
    example: Mapping[str, Any], dataset: str, image_size: int
) -> tuple[np.ndarray, int, int]:
    from PIL import Image

    if dataset == "celeb_a":
        attributes = example["attributes"]
        fine = 2 * int(attributes["Blond_Hair"]) + int(attributes["Male"])
    else:
        fine = int(example["label"])
    pixels = np.asarray(example["image"])
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image = np.asarray(resize(picture, image_size))
    image = image.reshape(*image.shape[:2], pixels.shape[-1])
    return image, fine, int(labels.coarse_of_fine(dataset)[fine])
