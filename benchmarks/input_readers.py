"""Photographs on disk, and the ways to read them that benchmarks/input.py compares.

A reader is a function of pictures and a number of cores, which is also its number of threads or
worker processes. It returns a function of a number of images, which yields these in batches.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from thanos_jax import config as schema
from thanos_jax.data import batches, cached, caching, prepared, sources
from thanos_jax.data.specs import Spec
from thanos_jax.data.splits import RecordSplit, Split

BATCH = 4
Read = Callable[[int], Iterator[Any]]


class Pictures(NamedTuple):
    """Images of one size.

    Attributes:
      folder: class folders with JPEG files.
      png: the same images as PNG files.
      records: ArrayRecord of the JPEG files, as TFDS stores them.
      cache: the images in a cache of `thanos_jax.cache`.
      final: side to which images are resized.
    """

    folder: pathlib.Path
    png: pathlib.Path
    records: pathlib.Path
    cache: pathlib.Path
    final: int


def write_pictures(root: pathlib.Path, *, side: int, final: int, count: int, how: str) -> Pictures:
    """Writes images made of scikit-learn's two photographs, 1.5 times as wide as high.

    Args:
      root: an empty folder.
      side: height in pixels.
      final: side to which images will be resized.
      count: number of images.
      how: "tiled": repeats the photographs, with full detail of 427 x 640 pixels everywhere;
        "enlarged": stretches them, as smooth as a large photograph out of focus.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    found = Pictures(root / "jpeg", root / "png", root / "a.array_record", root / "cache", final)
    photographs, width = load_sample_images().images, side * 3 // 2
    writer = ArrayRecordWriter(str(found.records), "group_size:1")
    for number in range(count):
        pixels = photographs[number % 2]
        if how == "tiled":
            # Each image begins at another place of the photograph.
            pixels = np.roll(pixels, (37 * number, 53 * number), (0, 1))
            repeats = (-(-side // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
            image = Image.fromarray(np.tile(pixels, repeats)[:side, :width])
        else:
            image = Image.fromarray(pixels).resize((width, side), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=90)
        for folder in (found.folder, found.png):
            (folder / "train" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
            (folder / "test" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        name = f"class{number % 2}/{number:05d}"
        (found.folder / "train" / f"{name}.jpg").write_bytes(content.getvalue())
        image.save(found.png / "train" / f"{name}.png", compress_level=3)
        if number < 2:  # a data set has a test split
            (found.folder / "test" / f"{name}.jpg").write_bytes(content.getvalue())
            image.save(found.png / "test" / f"{name}.png", compress_level=3)
        record = tf_example_pb2.Example()
        record.features.feature["image"].bytes_list.value.append(content.getvalue())
        record.features.feature["label"].int64_list.value.append(number % 2)
        writer.write(record.SerializeToString())
    writer.close()
    config_data = _config(found.folder, found.final, decode="scaled")
    caching.write(sources.as_stored(config_data), config_data, found.cache, threads=2)
    return found


def _config(folder: pathlib.Path, final: int, **changes: Any) -> Any:
    config_data = schema.default().data
    config_data.update(name="folder", data_dir=str(folder), image_size=final, **changes)
    config_data.memory_limit_gib = 0.0
    return config_data


def _ours(split: Split, threads: int) -> Read:
    """Returns the input of a training whose images stay on disk, as the trainer has it."""

    def read(images: int) -> Iterator[Any]:
        return batches.train_batches(
            split,
            seed=0,
            batch_size=BATCH,
            first_step=0,
            last_step=images // BATCH,
            read_threads=threads,
        )

    return read


def files(pictures: Pictures, cores: int, *, decode: str = "full", png: bool = False) -> Read:
    """Reads image files, decoded by threads."""
    folder = pictures.png if png else pictures.folder
    dataset = sources.as_stored(_config(folder, pictures.final, decode=decode))
    return _ours(dataset.splits["train"], cores)


def records(pictures: Pictures, cores: int) -> Read:
    """Reads TFDS records, decoded by threads."""
    return _ours(_of_records(pictures), cores)


def _of_records(pictures: Pictures) -> RecordSplit:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    spec = Spec(("0", "1"), ("0", "1"), np.arange(2, dtype=np.int32))
    shape = (pictures.final, pictures.final, 3)
    return RecordSplit(
        ArrayRecordDataSource([str(pictures.records)]),
        prepared.decoder(spec, (None, None, 3), pictures.final, "scaled"),
        image_shape=shape,
        num_fine=2,
        num_coarse=2,
        dataset="records",
        split="train",
        file_of=str,
    )


def from_cache(pictures: Pictures, cores: int) -> Read:
    """Reads decoded images from a cache, by threads."""
    config_data = _config(pathlib.Path(), pictures.final, decode="scaled")
    config_data.update(cache=str(pictures.cache), data_dir="")
    return _ours(cached.load(config_data).splits["train"], cores)


def workers(pictures: Pictures, cores: int) -> Read:
    """Reads TFDS records, decoded by Grain's worker processes."""

    def read(images: int) -> Iterator[Any]:
        source = grain.MapDataset.range(images // BATCH).map(
            functools.partial(_batch_of_records, pictures)
        )
        options = grain.MultiprocessingOptions(num_workers=cores)
        threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        return iter(source.to_iter_dataset(threads).mp_prefetch(options))

    return read


@functools.cache
def _opened(pictures: Pictures) -> RecordSplit:
    return _of_records(pictures)


def _batch_of_records(pictures: Pictures, step: int) -> Any:
    split = _opened(pictures)  # once in each process
    return split.read((np.arange(BATCH) + step * BATCH) % len(split))


def pillow(pictures: Pictures, cores: int) -> Read:
    """Reads by Pillow alone, as in its tutorial, in threads: open, convert, resize, copy."""
    paths = sorted(pictures.folder.glob("train/*/*.jpg"))

    def one(path: pathlib.Path) -> np.ndarray:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        columns, rows = picture.size
        left, top = (columns - rows) / 2, 0
        box = (left, top, left + rows, top + rows)
        size = (pictures.final, pictures.final)
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box))

    def read(images: int) -> Iterator[Any]:
        with concurrent.futures.ThreadPoolExecutor(cores) as pool:
            for start in range(0, images, BATCH):
                chosen = [paths[(start + i) % len(paths)] for i in range(BATCH)]
                yield np.stack(list(pool.map(one, chosen)))

    return read


def torch_loader(pictures: Pictures, cores: int) -> Read:
    """Reads by torchvision's ImageFolder, Resize and CenterCrop in a DataLoader's processes."""
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(cores)
    steps = transforms.Compose(
        [
            transforms.Resize(pictures.final),
            transforms.CenterCrop(pictures.final),
            transforms.PILToTensor(),
        ]
    )
    dataset = datasets.ImageFolder(str(pictures.folder / "train"), steps)

    def read(images: int) -> Iterator[Any]:
        order = [number % len(dataset) for number in range(images)]
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, sampler=order, num_workers=cores
        )
        return iter(loader)

    return read


def tensorflow_data(pictures: Pictures, cores: int) -> Read:
    """Reads, decodes and resizes by tf.data in its own threads."""
    import tensorflow as tf

    paths = sorted(map(str, pictures.folder.glob("train/*/*.jpg")))

    def one(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        rows, columns = tf.shape(image)[0], tf.shape(image)[1]
        image = tf.image.resize_with_crop_or_pad(image, rows, rows) if columns > rows else image
        size = (pictures.final, pictures.final)
        return tf.cast(tf.image.resize(image, size, antialias=True), tf.uint8)

    def read(images: int) -> Iterator[Any]:
        source = tf.data.Dataset.from_tensor_slices(paths).repeat().take(images)
        options = tf.data.Options()
        options.threading.private_threadpool_size = cores
        made = source.map(one, num_parallel_calls=cores).batch(BATCH).prefetch(2)
        return made.with_options(options).as_numpy_iterator()

    return read


# Name in the table -> its reader, and the package it needs; "": none beyond the project's own.
READERS: dict[str, tuple[Callable[[Pictures, int], Read], str]] = {
    "Pillow": (pillow, ""),
    "JPEG full": (files, ""),
    "JPEG scaled": (functools.partial(files, decode="scaled"), ""),
    "PNG": (functools.partial(files, png=True), ""),
    "TFDS records": (records, ""),
    "Grain workers": (workers, ""),
    "cache": (from_cache, ""),
    "torch DataLoader": (torch_loader, "torchvision"),
    "tf.data": (tensorflow_data, "tensorflow"),
}
# Readers whose work is done in other processes.
IN_WORKERS = ("Grain workers", "torch DataLoader")


def missing(name: str) -> str:
    """Returns the package that a reader needs and that is not installed; "" if there is none."""
    package = READERS[name][1]
    return package if package and importlib.util.find_spec(package) is None else ""
