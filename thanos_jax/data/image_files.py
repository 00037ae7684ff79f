"""Splits whose images are single files, in any format that Pillow reads."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data.damaged import open_records
from thanos_jax.data.dataset import exceeds_memory
from thanos_jax.data.fitting import bring, square
from thanos_jax.data.splits import RecordSplit, Split

# Several times the size of camera images; a colour image of this size takes 1.5 GB.
MAX_MEGAPIXELS = 500.0

_LIMIT = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """The files of a split and their labels; item i is (bytes, fine label, coarse label) of file i.

    Attributes:
      paths: paths of n files.
      fine: int32 [n], fine labels.
      coarse: int32 [n], coarse labels.
      sources: file and table line of each image, for messages, as in "cats/1.png (line 7)".
      names: str [n], names of the files to show; None: the paths.
    """

    paths: Sequence[str]
    fine: np.ndarray
    coarse: np.ndarray
    sources: Sequence[str]
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[bytes, int, int]:
        content = pathlib.Path(self.paths[number]).read_bytes()
        return content, int(self.fine[number]), int(self.coarse[number])


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
      config_data: `config.data`: image_size, decode, memory_limit_gib, background, on_damaged and
        max_megapixels.
      files: split -> its files.
      convert: converts a PIL image as read to mode "L" or "RGB".
      dataset: name of the data set, for messages.
      num_fine: fine labels lie in [0, num_fine).
      num_coarse: coarse labels lie in [0, num_coarse).
      image_shape: (h, w, c) of every converted image.

    Returns:
      split -> its examples, either all splits in memory or none; and the examples left out.

    Raises:
      DataError: a file that is read now cannot be used.
    """

    def decode(record: Any) -> tuple[np.ndarray, int, int]:
        content, fine, coarse = record
        with open_image(io.BytesIO(content), config_data.max_megapixels) as image:
            picture = bring(image, convert, square(config_data.image_size), config_data.decode)
            pixels = np.asarray(picture)
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
            names=np.array(part.paths) if part.names is None else part.names,
        )
        splits[name], found = open_records(
            records, stream=stream, on_damaged=config_data.on_damaged
        )
        skipped += found
    return splits, skipped


def open_image(file: Any, max_megapixels: float = MAX_MEGAPIXELS) -> Any:
    """Opens an image file and reads its header.

    Pillow refuses images of more than 179 megapixels, as a guard against small files that expand to
    fill the memory. Here the caller sets the limit.

    Args:
      file: a path or an open binary file.
      max_megapixels: largest accepted size, in millions of pixels.

    Returns:
      A PIL image; the caller closes it.

    Raises:
      ValueError: the file is not an image that Pillow reads, or has too many pixels.
      OSError: the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        try:
            image = Image.open(file)
        except Image.DecompressionBombError:
            if hasattr(file, "seek"):
                file.seek(0)
            with _without_limit():
                image = Image.open(file)
    except UnidentifiedImageError as error:
        # Pillow's own message names a Python object.
        raise ValueError("not an image in a format that Pillow can read") from error
    megapixels = image.size[0] * image.size[1] / 1e6
    if megapixels > max_megapixels:
        image.close()
        raise ValueError(
            f"data.max_megapixels: expected at most {max_megapixels:g} million pixels, got"
            f" {megapixels:.1f} ({image.size[0]} x {image.size[1]})"
        )
    return image


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Lifts Pillow's limit, a global variable, for one thread at a time."""
    from PIL import Image

    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
