"""Splits whose images are files, one each, in any format that Pillow reads."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data.damaged import open_records
from thanos_jax.data.dataset import exceeds_memory
from thanos_jax.data.prepared import resize
from thanos_jax.data.splits import RecordSplit, Split


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """The files of a split and their labels; item i is the bytes, fine and coarse label of file i.

    Attributes:
      paths: of n files.
      fine: int32 [n].
      coarse: int32 [n].
      sources: n places to look at when a file cannot be used, as in "cats/1.png (line 7)".
    """

    paths: Sequence[str]
    fine: np.ndarray
    coarse: np.ndarray
    sources: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[bytes, int, int]:
        content = pathlib.Path(self.paths[number]).read_bytes()
        return content, int(self.fine[number]), int(self.coarse[number])

    def take(self, indices: np.ndarray) -> ImageFiles:
        """The files named, in that order."""
        return ImageFiles(
            [self.paths[index] for index in indices],
            self.fine[indices],
            self.coarse[indices],
            [self.sources[index] for index in indices],
        )


def open_splits(
    config_data: ConfigDict,
    files: Mapping[str, ImageFiles],
    convert: Callable[[Any], Any],
    *,
    dataset: str,
    num_fine: int,
    num_coarse: int,
    image_shape: tuple[int, int, int],
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Opens the splits of a data set of image files.

    Args:
      config_data: `config.data`: image_size, memory_limit_gib, background and on_damaged.
      files: split -> its files.
      convert: from the PIL image as it is read to one of mode "L" or "RGB".
      dataset: name of the data set, for messages.
      num_fine: fine labels lie in [0, num_fine).
      num_coarse: coarse labels lie in [0, num_coarse).
      image_shape: (h, w, c) of every image in the end.

    Returns:
      split -> its examples: all of them in memory, or none; and which were left out.

    Raises:
      DataError: a file that cannot be used, if it is read now.
    """

    def decode(record: Any) -> tuple[np.ndarray, int, int]:
        content, fine, coarse = record
        with open_image(io.BytesIO(content)) as image:
            pixels = np.asarray(resize(convert(image), config_data.image_size))
        return pixels.reshape(*pixels.shape[:2], -1), fine, coarse

    stream = exceeds_memory(sum(map(len, files.values())), image_shape, config_data)
    splits: dict[str, Split] = {}
    skipped: tuple[str, ...] = ()
    for name, part in files.items():
        records = RecordSplit(
            part,
            decode,
            image_shape=image_shape,
            num_fine=num_fine,
            num_coarse=num_coarse,
            dataset=dataset,
            split=name,
            file_of=part.sources.__getitem__,
            fine=part.fine,
        )
        splits[name], found = open_records(
            records, stream=stream, on_damaged=config_data.on_damaged
        )
        skipped += found
    return splits, skipped


def open_image(file: Any) -> Any:
    """Opens an image file and reads its header.

    Args:
      file: a path or an open binary file.

    Returns:
      A PIL image, to be closed.

    Raises:
      ValueError: not an image that Pillow knows.
      OSError: the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        # Pillow's own message names a Python object.
        raise ValueError("not an image in a format that Pillow can read") from error
