"""A data set as decoded, resized pixels in ArrayRecord files: written once, read many times.

A cache is a folder:

    cache.json                            description of the data and of each split
    train-00000-of-00012.array_record     a record per image: its two labels, its pixels
    train-00000-of-00012.npz              fine labels and names of these images

It holds what the loader of a set returns (`thanos_jax.data.sources.as_stored`), before validation
images are held out, classes are made rare or backgrounds are added. One cache thus serves every
seed and method, and a run on it is bit-equal to a run on the set itself. A shard is complete once
both its files exist and hold the right number of images. cache.json is marked complete after the
last shard. ArrayRecord checks a hash of each record that it reads.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import fingerprint
from thanos_jax.data.damaged import open_records
from thanos_jax.data.dataset import Dataset, coarse_map_text, exceeds_memory
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import DataError, RecordSplit, Split
from thanos_jax.errors import MissingDependencyError

DESCRIPTION = "cache.json"
UNLABELLED = "unlabelled"
LABELS = np.dtype("<i4")
# Keys of cache.json: the fingerprint by which a run recognizes its data, and a fingerprint of the
# stored files if the first does not cover them.
FINGERPRINTS = ("fingerprint", "files")
# Keys of config.data that change what a loader returns.
_KEYS = (
    *("name", "image_size", "decode", "matte", "deep_images", "unlabelled", "unlabelled_use"),
    *("max_megapixels", "tfds", "fine_key", "coarse_key", "test_split"),
)
_COMMAND = "python -m thanos_jax.cache --config=FILE --out=DIR"


class Shard(NamedTuple):
    """Some images of a split.

    Attributes:
      split: name of the split.
      rows: numbers of the images in the split.
      records: path of the file with the pixels.
      labels: path of the file with fine labels and names.
    """

    split: str
    rows: range
    records: pathlib.Path
    labels: pathlib.Path

    @property
    def is_done(self) -> bool:
        """Whether both files exist."""
        return self.records.exists() and self.labels.exists()


def load(config_data: ConfigDict) -> Dataset:
    """Loads the data set in the cache `config_data.cache`, as its loader returned it.

    Args:
      config_data: `config.data`. Keys that change what a loader returns must have the values with
        which the cache was written; data_dir is not needed.

    Raises:
      DataError: the cache is missing or incomplete, was written with other keys, or has a shard
        that cannot be read.
      MissingDependencyError: array_record is not installed.
    """
    folder, described = _open(config_data)
    shape, sizes = tuple(described["image_shape"]), described["sizes"]
    stream = exceeds_memory(sum(sizes.values()), shape, config_data)
    shards = list(shards_of(folder, described))
    splits: dict[str, Split] = {}
    skipped = tuple(described["skipped"])
    for name in sizes:
        records = _open_split(described, name, [one for one in shards if one.split == name])
        splits[name], found = open_records(
            records, stream=stream, on_damaged=config_data.on_damaged
        )
        skipped += found
    return Dataset(
        described["dataset"],
        splits,
        tuple(described["coarse_names"]),
        tuple(described["fine_names"]),
        shape,
        tuple(described["mean"]),
        tuple(described["std"]),
        skipped,
        unlabelled=splits.pop(UNLABELLED, None),
        unlabelled_dropped=described["unlabelled_dropped"],
        one_level=described["one_level"],
        fingerprint=described["fingerprint"],
    )


def known(config_data: ConfigDict) -> fingerprint.Fingerprint | None:
    """Returns the fingerprint of the data of a cache; arguments and errors as `load`."""
    return _open(config_data)[1]["fingerprint"]


def require_same_data(
    config_data: ConfigDict,
    known_now: fingerprint.Fingerprint | None,
    files_now: fingerprint.Fingerprint | None,
) -> None:
    """Checks that a cache was made of the data as they are now.

    Args:
      config_data: as for `load`.
      known_now: the fingerprint of the data, as `Dataset.fingerprint`.
      files_now: from `thanos_jax.data.sources.files`.

    Raises:
      DataError: the data have changed, and the message says how; or as `load`.
    """
    folder, described = _open(config_data)
    found = changes(described, {"fingerprint": known_now, "files": files_now})
    if found:
        raise DataError(
            f"data.cache: expected a cache of the images as they are now, got {folder}, made of "
            f"others: {'; '.join(found)}. Write a new cache"
        )


def changes(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each difference between the data of two caches.

    Args:
      there: the contents of a cache.json, or its keys in `FINGERPRINTS`.
      now: as `there`.
    """
    return [
        line
        for key in FINGERPRINTS
        if there[key] is not None and now[key] is not None
        for line in fingerprint.changes(there[key], now[key])
    ]


def require_array_record() -> None:
    """Raises MissingDependencyError if array_record is not installed."""
    try:
        import array_record.python.array_record_data_source  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"a cache is an ArrayRecord: {error}. Install array_record with: pip install '.[tfds]'"
            " in the project's folder"
        ) from error


def settings(config_data: ConfigDict) -> dict[str, Any]:
    """Returns the keys of config.data that a cache depends on, with their values."""
    found = {key: config_data[key] for key in _KEYS}
    # The lines, not the path: the file may be elsewhere on another machine.
    found["coarse_map"] = coarse_map_text(config_data) if config_data.coarse_map else ""
    if config_data.name in SPECS and SPECS[config_data.name].kept:
        found["split_seed"] = config_data.split_seed  # draws the images that are kept
    return found


def shards_of(folder: pathlib.Path, described: Mapping[str, Any]) -> Iterator[Shard]:
    """Yields the shards of a cache, split by split, as its cache.json describes them."""
    step = described["shard_rows"]
    for split, size in described["sizes"].items():
        count = -(-size // step)
        for number in range(count):
            path = folder / f"{split}-{number:05d}-of-{count:05d}"
            rows = range(number * step, min((number + 1) * step, size))
            records, labels = (path.with_suffix(end) for end in (".array_record", ".npz"))
            yield Shard(split, rows, records, labels)


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each key whose value differs between two `settings`."""
    return [
        f"data.{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted({*there, *now})
        if there.get(key) != now.get(key)
    ]


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of cache.json.

    Raises:
      DataError: it is missing or not the description of a cache.
    """
    path = folder / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"complete", "settings", "sizes", *FINGERPRINTS} <= found.keys():
            raise ValueError("cache.json does not describe a cache")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"data.cache: expected a folder written by {_COMMAND}, got {folder}: {error}"
        ) from error
    return found


def _open(config_data: ConfigDict) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the folder and the cache.json of a cache that is complete and has these keys."""
    folder = pathlib.Path(config_data.cache).expanduser()
    described = read(folder)
    missing = [shard.records.name for shard in shards_of(folder, described) if not shard.is_done]
    if missing or not described["complete"]:
        raise DataError(
            f"data.cache: expected a complete cache, got {folder}, where {len(missing)} shards are "
            f"missing{f', such as {missing[0]}' if missing else ''}; the command that began it"
            " continues it"
        )
    found = differences(described["settings"], settings(config_data))
    if described["skipped"] and config_data.on_damaged == "stop":
        found.append(
            f"data.on_damaged: 'skip' there, {len(described['skipped'])} images out, 'stop' now"
        )
    if found:
        raise DataError(f"data.cache: {folder} was made with other keys: {'; '.join(found)}")
    return folder, described


def _open_split(described: Mapping[str, Any], name: str, shards: Sequence[Shard]) -> RecordSplit:
    require_array_record()
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    arrays = [read_shard(shard) for shard in shards]
    shape = tuple(described["image_shape"])
    return RecordSplit(
        ArrayRecordDataSource([str(shard.records) for shard in shards]),
        functools.partial(_decode, shape=shape),
        image_shape=shape,
        num_fine=len(described["fine_names"]),
        num_coarse=len(described["coarse_names"]),
        dataset=described["dataset"],
        split=name,
        file_of=lambda number: str(shards[number // described["shard_rows"]].records),
        fine=np.concatenate([one["fine"] for one in arrays]),
        names=np.concatenate([one["names"] for one in arrays]),
    )


def count_records(path: pathlib.Path) -> int:
    """Returns the number of records in a file; raises RuntimeError if it cannot be read."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path))
    count = int(reader.num_records())  # 0 for a damaged file; `close` then raises
    reader.close()
    return count


def read_shard(shard: Shard) -> dict[str, np.ndarray]:
    """Reads the fine labels and names of a shard, and counts its records.

    Returns:
      {"fine": integer [n], "names": [n]}, as in `Split`.

    Raises:
      DataError: a file of the shard is missing, damaged, or has another number of images.
    """
    try:
        count = count_records(shard.records)
        if count != len(shard.rows):
            raise ValueError(f"expected {len(shard.rows)} records, got {count}")
    except Exception as error:  # array_record raises several kinds, from C++
        raise _damaged(shard.records, error) from error
    try:
        with np.load(shard.labels, allow_pickle=False) as file:
            found = {name: file[name] for name in ("fine", "names")}
        if any(len(array) != len(shard.rows) for array in found.values()):
            raise ValueError(f"expected labels of {len(shard.rows)}, got {len(found['fine'])}")
    except Exception as error:  # a damaged zip file raises several kinds
        raise _damaged(shard.labels, error) from error
    return found


def _damaged(path: pathlib.Path, error: Exception) -> DataError:
    # For a truncated file, the message of ArrayRecord may be empty.
    return DataError(
        f"data.cache: {path}: {str(error) or 'damaged or truncated'}; the command that wrote the"
        " cache writes it again"
    )


def _decode(record: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int, int]:
    fine, coarse = np.frombuffer(record, LABELS, count=2).tolist()
    pixels = np.frombuffer(record, np.uint8, offset=2 * LABELS.itemsize)
    return pixels.reshape(shape), fine, coarse
