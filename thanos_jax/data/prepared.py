"""Data sets as TFDS leaves them on disk: a folder per version with metadata and record files.

Records are read by random access and decoded here, by Pillow: TFDS's own decoding of a CelebA
record spends most of its time on attributes that nobody asked for.
"""

import functools
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.data import labels
from thanos_jax.data.splits import DataError, RecordSplit
from thanos_jax.errors import MissingDependencyError, UserError

_MODES = {1: "L", 3: "RGB"}
_INSTALL = "pip install '.[tfds]' in the project's folder"
_INSTALL_PREPARE = "pip install '.[prepare]' in the project's folder"


class DatasetNotFound(UserError, FileNotFoundError):  # noqa: N818
    """There is no prepared copy of a data set where it was looked for."""


class Prepared(NamedTuple):
    """A data set on disk.

    Attributes:
      name: TFDS's name of it.
      folder: the folder of the version to read.
      format: "array_record" or "tfrecord".
      sizes: split -> number of records.
      image_shape: (h, w, c) as stored.
      builder: TFDS's reader of the folder.
    """

    name: str
    folder: Any
    format: str
    sizes: dict[str, int]
    image_shape: tuple[int, int, int]
    builder: Any


def _tfds() -> ModuleType:
    try:
        # TFDS finds out late, and without a hint, that one of these is missing.
        for name in ("PIL.Image", "array_record.python.array_record_data_source"):
            importlib.import_module(name)
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise MissingDependencyError(
            f"this data set is read through tensorflow_datasets, array_record and Pillow: {error}."
            f" Install them with: {_INSTALL}"
        ) from error


def find(name: str, data_dir: str) -> Prepared:
    """The newest version of a data set under a TFDS data folder.

    Args:
      name: TFDS's name, as in "mnist".
      data_dir: the folder that holds NAME/VERSION; "" for the environment variable TFDS_DATA_DIR
        or else ~/tensorflow_datasets.

    Returns:
      What is there.

    Raises:
      ImportError: tensorflow_datasets is not installed.
      DatasetNotFound: there is no prepared copy.
      DataError: the metadata cannot be used.
    """
    tfds = _tfds()
    from etils import epath

    default = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    root = epath.Path(data_dir or default).expanduser()
    home = root / name
    infos = home.glob("*/dataset_info.json") if home.exists() else ()
    # Other folders are what an interrupted download leaves behind.
    found = {
        tuple(int(part) for part in info.parent.name.split(".")): info.parent
        for info in infos
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    }
    if not found:
        raise DatasetNotFound(
            f"no prepared copy of {name!r}: looked for VERSION/dataset_info.json in {home}."
            f" Either prepare it: {_INSTALL_PREPARE} and then"
            f" tfds build {name} --file_format=array_record --data_dir={shlex.quote(str(root))}"
            " (it downloads the data). Or say where it is: --config.data.data_dir=DIR, the folder"
            f" that holds {name}/"
        )
    folder = found[max(found)]
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        builder = tfds.builder_from_directory(folder)
        sizes = {key: int(split.num_examples) for key, split in builder.info.splits.items()}
        shape = builder.info.features["image"].shape
    except Exception as error:
        raise DataError(f"{name}: cannot use the metadata in {folder}: {error}") from error
    if len(shape) != 3 or None in shape or shape[2] not in _MODES:
        raise DataError(
            f"{name}: {folder} declares images of shape {shape}; expected (h, w, c) with one or"
            " three channels"
        )
    formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())]
    stored = "array_record" if "array_record" in formats else formats[0]
    return Prepared(name, folder, stored, sizes, tuple(shape), builder)


def _convert_command(prepared: Prepared) -> str:
    # In place: with --out_dir, TFDS 4.9.10 writes the records and leaves out the metadata.
    return (
        f"tfds convert_format --dataset_version_dir={shlex.quote(str(prepared.folder))}"
        " --out_file_format=array_record"
    )


def open_split(
    prepared: Prepared,
    split: str,
    *,
    dataset: str,
    image_size: int,
    stream: bool,
    check_ends: bool = True,
) -> RecordSplit:
    """Opens one split for random access.

    Args:
      prepared: from `find`.
      split: name of the split, as in "train".
      dataset: name of ours whose labels are wanted, as in "cifar100_u".
      image_size: side of the square the images are resized to; 0 to leave them as stored.
      stream: whether the records must stay on disk until they are asked for.
      check_ends: whether the first and last record of each file are read at once.

    Returns:
      The split.

    Raises:
      DataError: no such split, or files that are missing, damaged or cut short.
      ValueError: the file format does not allow what is asked; the message has the command that
        converts the files.
    """
    where = f"{dataset}, split {split!r}"
    if split not in prepared.sizes:
        raise DataError(f"{where}: {prepared.folder} has only {sorted(prepared.sizes)}")
    shards = prepared.builder.info.splits[split]
    if prepared.format == "array_record":
        records: Any = prepared.builder.as_data_source(
            split, deserialize_method=_tfds().decode.DeserializeMethod.RAW_BYTES
        )
    elif prepared.format == "tfrecord":
        records = _read_tfrecords(prepared, shards.filepaths, where, stream)
    else:
        raise DataError(
            f"{where}: the files in {prepared.folder} are {prepared.format}; convert them in place"
            f" with {_INSTALL_PREPARE} and then: {_convert_command(prepared)}"
        )
    size = prepared.sizes[split]
    if len(records) != size:
        raise DataError(
            f"{where}: {prepared.folder} declares {size} records, its files hold {len(records)}"
        )
    height, width, channels = prepared.image_shape
    result = RecordSplit(
        records,
        _decoder(dataset, prepared.image_shape, image_size),
        image_shape=(image_size or height, image_size or width, channels),
        num_fine=len(labels.fine_names(dataset)),
        num_coarse=len(labels.coarse_names(dataset)),
        dataset=dataset,
        split=split,
        file_of=functools.partial(_file_of, shards.file_instructions),
    )
    if check_ends and size:
        # Every reader checks the end of its file first: a missing or cut file shows now, not at
        # the step that happens to need it.
        ends = np.cumsum([0, *(shard.take for shard in shards.file_instructions)])
        result.read(np.unique(np.concatenate([ends[:-1], ends[1:] - 1])))
    return result


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _read_tfrecords(
    prepared: Prepared, paths: Sequence[Any], where: str, stream: bool
) -> list[bytes]:
    reason = ""
    if stream:
        reason = "tfrecord files cannot be read record by record, and the images exceed the memory"
        reason += " allowed by data.memory_limit_gib"
    elif not _has_tensorflow():
        reason = "reading tfrecord files needs TensorFlow, which is not installed"
    if reason:
        raise DataError(
            f"{where}: the files in {prepared.folder} are tfrecord: {reason}. Convert them in place"
            f" once, after {_INSTALL_PREPARE}: {_convert_command(prepared)}"
        )
    import tensorflow as tf

    try:
        # One file after the other, which is the order of array_record files.
        return list(tf.data.TFRecordDataset([str(path) for path in paths]).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise DataError(f"{where}: {error.message} (one of {[str(p) for p in paths]})") from error


def _file_of(shards: Sequence[Any], number: int) -> str:
    for shard in shards:
        if number < shard.take:
            return str(shard.filename)
        number -= shard.take
    return "no file"


def _integer(features: Any, key: str) -> int:
    # Looking up a missing key would create it.
    if key not in features or len(features[key].int64_list.value) != 1:
        raise ValueError(f"the record has no integer {key!r}; it has {sorted(features)}")
    return int(features[key].int64_list.value[0])


def _class_label(features: Any) -> int:
    return _integer(features, "label")


def _group(features: Any) -> int:
    blond, male = (_integer(features, f"attributes/{key}") for key in ("Blond_Hair", "Male"))
    return 2 * blond + male


def _decoder(
    dataset: str, stored_shape: tuple[int, int, int], image_size: int
) -> Callable[[bytes], tuple[np.ndarray, int, int]]:
    """Bytes of a tf.train.Example -> (image, fine, coarse)."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    coarse_of_fine = labels.coarse_of_fine(dataset).tolist()
    fine_label = _group if dataset == "celeb_a" else _class_label
    states_coarse = dataset in ("cifar100", "cifar100_u")
    height, width, channels = stored_shape

    def decode(record: bytes) -> tuple[np.ndarray, int, int]:
        features = tf_example_pb2.Example.FromString(record).features.feature
        fine = fine_label(features)
        if not 0 <= fine < len(coarse_of_fine):
            raise ValueError(f"fine label {fine} is not in [0, {len(coarse_of_fine)})")
        coarse = coarse_of_fine[fine]
        stated = _integer(features, "coarse_label") if states_coarse else coarse
        if stated != coarse:
            raise ValueError(
                f"coarse_label {stated} for fine label {fine}, which belongs to superclass {coarse}"
            )
        if "image" not in features or len(features["image"].bytes_list.value) != 1:
            raise ValueError(f"the record has no 'image'; it has {sorted(features)}")
        encoded = io.BytesIO(features["image"].bytes_list.value[0])
        with Image.open(encoded, formats=("PNG", "JPEG")) as image:
            found = (image.size, image.mode)
            if found != ((width, height), _MODES[channels]):
                raise ValueError(
                    f"image of {image.size[0]} x {image.size[1]} pixels, mode {image.mode};"
                    f" expected {width} x {height}, mode {_MODES[channels]}"
                )
            pixels = np.asarray(resize(image, image_size))
        return pixels.reshape(*pixels.shape[:2], channels), fine, coarse

    return decode


def resize(image: Any, size: int) -> Any:
    """Resizes the largest centred square of a picture; size 0 leaves the picture as it is.

    The same as bringing the shorter side to `size` and cropping the centre, in one pass: bilinear,
    with Pillow's support over all source pixels when it shrinks.

    Args:
      image: a PIL image.
      size: side of the square in pixels.

    Returns:
      A PIL image of size x size.
    """
    if not size or image.size == (size, size):
        return image
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
