"""Data sets as TFDS prepares them on disk: a folder per version, with metadata and record files.

Records are read by random access and decoded here, by Pillow, because TFDS spends most of its time
on a CelebA record on attributes that are not needed.
"""

import functools
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.data import fingerprint
from thanos_jax.data.damaged import open_records
from thanos_jax.data.dataset import labels
from thanos_jax.data.fitting import bring, square
from thanos_jax.data.pixels import in_mode
from thanos_jax.data.specs import Spec
from thanos_jax.data.splits import DataError, Decode, RecordSplit
from thanos_jax.errors import MissingDependencyError, UserError

_MODES = {1: "L", 3: "RGB"}
_INSTALL = "pip install '.[tfds]' in the project's folder"
_INSTALL_PREPARE = "pip install '.[prepare]' in the project's folder"


class DatasetNotFound(UserError, FileNotFoundError):  # noqa: N818
    """There is no prepared copy of a data set in the given folder."""


class Prepared(NamedTuple):
    """A data set on disk.

    Attributes:
      name: its name in TFDS.
      folder: the folder of the version to read.
      format: "array_record" or "tfrecord".
      sizes: split -> number of records.
      image_shape: (h, w, c) as stored; h and w are None if images differ in size.
      builder: TFDS's builder for the folder.
    """

    name: str
    folder: Any
    format: str
    sizes: dict[str, int]
    image_shape: tuple[int | None, int | None, int]
    builder: Any


def _tfds() -> ModuleType:
    try:
        # TFDS reports late, and without a hint, that one of these is missing.
        for name in ("PIL.Image", "array_record.python.array_record_data_source"):
            importlib.import_module(name)
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise MissingDependencyError(
            f"this data set is read through tensorflow_datasets, array_record and Pillow: {error}."
            f" Install them with: {_INSTALL}"
        ) from error


def find(name: str, data_dir: str, version: str = "") -> Prepared:
    """Finds a prepared data set in a TFDS data folder.

    Args:
      name: TFDS's name, with the config if the set has any, as in "mnist" or "emnist/letters".
      data_dir: the folder that holds NAME/VERSION; "": the environment variable TFDS_DATA_DIR, or
        ~/tensorflow_datasets.
      version: as in "3.0.1"; "" for the newest.

    Returns:
      The data set on disk.

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
    # Other folders are left by interrupted downloads.
    found = {
        tuple(int(part) for part in info.parent.name.split(".")): info.parent
        for info in infos
        if re.fullmatch(version or r"\d+\.\d+\.\d+", info.parent.name)
    }
    if not found:
        configs = {info.parents[1].name for info in home.glob("*/*/dataset_info.json")}
        raise DatasetNotFound(
            f"no prepared copy of {name!r}: looked for {version or 'VERSION'}/dataset_info.json in"
            f" {home}"
            + (f", which holds the configs {', '.join(sorted(configs))}" if configs else "")
            + f". Either prepare it: {_INSTALL_PREPARE}, then tfds build"
            f" {f'{name}:{version}' if version else name} --file_format=array_record"
            f" --data_dir={shlex.quote(str(root))} (it downloads the data). Or give its place:"
            f" --config.data.data_dir=DIR, the folder that holds {name}/"
        )
    folder = found[max(found)]
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        builder = tfds.builder_from_directory(folder)
        sizes = {key: int(split.num_examples) for key, split in builder.info.splits.items()}
        features = dict(builder.info.features.items())
    except Exception as error:
        raise DataError(f"{name}: cannot use the metadata in {folder}: {error}") from error
    image = features.get("image")
    if not isinstance(image, tfds.features.Image):
        raise DataError(
            f"{name}: expected a feature 'image' in {folder}, got the features"
            f" {', '.join(features)}"
        )
    shape = image.shape
    if len(shape) != 3 or shape[2] not in _MODES or image.np_dtype != np.uint8:
        raise DataError(
            f"{name}: image: expected uint8 (h, w, c) with one or three channels in {folder}, got"
            f" {np.dtype(image.np_dtype).name} {shape}"
        )
    formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())]
    stored = "array_record" if "array_record" in formats else formats[0]
    return Prepared(name, folder, stored, sizes, tuple(shape), builder)


def fingerprint_of(prepared: Prepared) -> fingerprint.Fingerprint:
    """Returns the fingerprint of a set on disk: names and sizes of record files, and metadata.

    The metadata are the version and each split's number of records and of bytes. They are included
    because record files may be padded, so that different files have the same size.

    Args:
      prepared: from `find`. Files of splits that are not read may be missing.
    """
    splits = prepared.builder.info.splits
    # TFDS reports the files of the format that was written first.
    paths = [
        path
        for split in splits.values()
        for path in split.filename_template.replace(
            filetype_suffix=prepared.format
        ).sharded_filepaths(split.num_shards)
    ]
    there = [path for path in paths if path.exists()]
    return fingerprint.of_records(
        names=[path.name for path in there],
        sizes=[int(path.stat().length) for path in there],
        metadata=[
            f"version {prepared.folder.name}",
            *(
                f"{name}: {split.num_examples} records of {int(split.num_bytes)} bytes"
                for name, split in splits.items()
            ),
        ],
    )


def _convert_command(prepared: Prepared) -> str:
    # In place: with --out_dir, TFDS 4.9.10 writes the records and leaves out the metadata.
    return (
        f"tfds convert_format --dataset_version_dir={shlex.quote(str(prepared.folder))}"
        " --out_file_format=array_record"
    )


def integer_features(prepared: Prepared) -> dict[str, tuple[str, ...]]:
    """Returns the features of a record that can be labels.

    Args:
      prepared: from `find`.

    Returns:
      name of each scalar integer feature (OUTER/INNER if nested) -> names of its classes, in the
      order of their ids; () if the metadata has none.
    """
    features = _tfds().features
    found: dict[str, tuple[str, ...]] = {}

    def collect(named: Any, prefix: str) -> None:
        for name, feature in named.items():
            if isinstance(feature, features.FeaturesDict):
                collect(feature, f"{prefix}{name}/")
            elif isinstance(feature, features.ClassLabel):
                found[prefix + name] = tuple(feature.names) if feature.num_classes else ()
            elif (
                isinstance(feature, features.Tensor)
                and feature.shape == ()
                and np.dtype(feature.np_dtype).kind in "iub"
            ):
                found[prefix + name] = ()

    collect(prepared.builder.info.features, "")
    return found


def label_values(prepared: Prepared, splits: Sequence[str], key: str, on_damaged: str) -> list[int]:
    """Returns the distinct values of an integer feature; every record is read.

    Args:
      prepared: from `find`.
      splits: names of the splits.
      key: name of the feature.
      on_damaged: as in `thanos_jax.data.damaged`.

    Returns:
      Each value once, ascending.

    Raises:
      DataError: a record lacks the feature, or its value is negative or above 2**31 - 2.
    """
    nothing = np.zeros((0, 0, 1), np.uint8)
    values = set()
    for split in splits:
        records = open_split(
            prepared,
            split,
            lambda record: (nothing, _integer(_features(record), key), 0),
            image_shape=(0, 0, 1),
            num_fine=2**31 - 1,
            num_coarse=1,
            dataset=prepared.name,
            stream=False,
            check_ends=on_damaged == "stop",
        )
        found, _ = open_records(records, stream=False, on_damaged=on_damaged, threads=1)
        values.update(np.unique(labels(found)[0]).tolist())
    return sorted(values)


def open_split(
    prepared: Prepared,
    split: str,
    decode: Decode,
    *,
    image_shape: tuple[int, int, int],
    num_fine: int,
    num_coarse: int,
    dataset: str,
    stream: bool,
    check_ends: bool = True,
) -> RecordSplit:
    """Opens one split for random access.

    Args:
      prepared: from `find`.
      split: name of the split, as in "train".
      decode: from `decoder`.
      image_shape: (h, w, c) of a decoded image.
      num_fine: fine labels lie in [0, num_fine).
      num_coarse: coarse labels lie in [0, num_coarse).
      dataset: name of the data set, for messages.
      stream: whether the records must stay on disk until they are read.
      check_ends: whether the first and last record of each file are read now, as a check.

    Returns:
      The split.

    Raises:
      DataError: there is no such split; files are missing, damaged or truncated; or the file
        format does not allow this access, and the message has the command that converts the files.
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
    result = RecordSplit(
        records,
        decode,
        image_shape=image_shape,
        num_fine=num_fine,
        num_coarse=num_coarse,
        dataset=dataset,
        split=split,
        file_of=functools.partial(_file_of, shards.file_instructions),
    )
    if check_ends and size:
        # Every reader checks the end of its file first, so that a missing or truncated file is
        # found now and not at the step that needs it.
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
        reason = (
            "tfrecord files cannot be read record by record, and the images exceed the memory"
            " allowed by data.memory_limit_gib"
        )
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


def _features(record: bytes) -> Any:
    """Returns the features of a tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _integer(features: Any, key: str) -> int:
    # Looking up a missing key would create it.
    if key not in features or len(features[key].int64_list.value) != 1:
        raise ValueError(f"{key}: expected one integer in the record, which has {sorted(features)}")
    return int(features[key].int64_list.value[0])


def _image(features: Any) -> io.BytesIO:
    if "image" not in features or len(features["image"].bytes_list.value) != 1:
        raise ValueError(f"image: expected one in the record, which has {sorted(features)}")
    return io.BytesIO(features["image"].bytes_list.value[0])


def encoded_image(record: bytes) -> io.BytesIO:
    """Returns the encoded image of a tf.train.Example.

    Raises:
      ValueError: the record does not have exactly one image.
    """
    return _image(_features(record))


def decoder(
    spec: Spec,
    stored_shape: tuple[int | None, int | None, int],
    image_size: int,
    how: str = "full",
) -> Decode:
    """Returns a function that decodes a tf.train.Example to (image, fine label, coarse label).

    Args:
      spec: how labels are read.
      stored_shape: (h, w, c) of stored images; h and w are None if images differ in size.
      image_size: side of the square the images are resized to; 0 to leave them as stored.
      how: how images are decoded, an element of `fitting.DECODES`.
    """
    from PIL import Image

    num_fine = len(spec.fine_names)
    coarse_of_fine = [] if spec.coarse_of_fine is None else spec.coarse_of_fine.tolist()
    ids = {key: {v: n for n, v in enumerate(values)} for key, values in spec.values.items()}
    height, width, channels = stored_shape
    mode = _MODES[channels]

    def label(features: Any, key: str) -> int:
        value = _integer(features, key)
        return ids[key][value] if key in ids else value

    def decode(record: bytes) -> tuple[np.ndarray, int, int]:
        features = _features(record)
        fine = 0
        for key in spec.fine_keys:
            fine = 2 * fine + label(features, key)
        if not 0 <= fine < num_fine:
            raise ValueError(f"fine label: expected one in [0, {num_fine}), got {fine}")
        stated = label(features, spec.coarse_key) if spec.coarse_key else coarse_of_fine[fine]
        coarse = stated if spec.coarse_of_fine is None else coarse_of_fine[fine]
        if stated != coarse:
            raise ValueError(
                f"{spec.coarse_key}: expected {coarse} for fine label {fine}, got {stated}"
            )
        with Image.open(_image(features), formats=("PNG", "JPEG")) as image:
            if None not in stored_shape and (image.size, image.mode) != ((width, height), mode):
                raise ValueError(
                    f"image: expected {width} x {height} pixels, mode {mode}, got"
                    f" {image.size[0]} x {image.size[1]}, mode {image.mode}"
                )
            picture = bring(image, lambda one: in_mode(one, mode), square(image_size), how)
            pixels = np.asarray(picture)
        return pixels.reshape(*pixels.shape[:2], channels), fine, coarse

    return decode
