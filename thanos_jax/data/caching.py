"""Writes a cache of decoded, resized images; `thanos_jax.data.cached` describes its files."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax import workdir
from thanos_jax.data import cached, sources
from thanos_jax.data.ahead import ahead
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import Batch, DataError, Split
from thanos_jax.errors import ConfigError, UserError

SHARD_ROWS = 8192
# One record per group, so that a record is read without its neighbours; pixels hardly compress.
_OPTIONS = "group_size:1,uncompressed"
_CHUNK_BYTES = 2**24  # of pixels read at a time by a thread


class CacheError(UserError):
    """A cache cannot be written."""


class Done(NamedTuple):
    """Result of `write`.

    Attributes:
      images: number of images in the cache.
      written: number of images written by this call.
    """

    images: int
    written: int


def write(
    dataset: Dataset,
    config_data: ConfigDict,
    folder: pathlib.Path,
    *,
    threads: int,
    shard_rows: int = SHARD_ROWS,
) -> Done:
    """Writes a cache, or the shards of a cache that are missing, damaged or incomplete.

    Args:
      dataset: from `thanos_jax.data.sources.as_stored`.
      config_data: the `config.data` from which it was loaded.
      folder: folder of the cache; created if missing.
      threads: number of threads that read and decode.
      shard_rows: images in a shard.

    Raises:
      ConfigError: the folder holds something else, or the disk has too little free space.
      CacheError: a shard cannot be written.
      DataError: an image cannot be read.
      MissingDependencyError: array_record is not installed.
      WorkdirError: the folder is in use, or cannot be written.
    """
    cached.require_array_record()
    splits = {**dataset.splits}
    if dataset.unlabelled is not None:
        splits[cached.UNLABELLED] = dataset.unlabelled
    sizes = {name: len(split) for name, split in splits.items()}
    described = _describe(dataset, config_data, sizes, shard_rows)
    with workdir.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with workdir.locked(folder):
        _claim(folder, described)
        todo = [shard for shard in cached.shards_of(folder, described) if not _is_whole(shard)]
        _require_space(folder, sum(len(shard.rows) for shard in todo), dataset.image_shape)
        for number, shard in enumerate(todo):
            print(f"{shard.records.name} ({number + 1} of {len(todo)})", flush=True)
            _write_shard(splits[shard.split], shard, dataset.image_shape, threads)
        with workdir.writing(folder):
            _write_description(folder, {**described, "complete": True})
    return Done(sum(sizes.values()), sum(len(shard.rows) for shard in todo))


def _describe(
    dataset: Dataset, config_data: ConfigDict, sizes: Mapping[str, int], shard_rows: int
) -> dict[str, Any]:
    """Returns the contents of cache.json."""
    described = {
        "complete": False,
        "settings": cached.settings(config_data),
        "dataset": dataset.name,
        "sizes": sizes,
        "shard_rows": shard_rows,
        "image_shape": dataset.image_shape,
        "coarse_names": dataset.coarse_names,
        "fine_names": dataset.fine_names,
        "mean": dataset.mean,
        "std": dataset.std,
        "skipped": dataset.skipped,
        "unlabelled_dropped": dataset.unlabelled_dropped,
        "one_level": dataset.one_level,
        "fingerprint": dataset.fingerprint,
        "files": sources.files(config_data),
    }
    return json.loads(json.dumps(described))  # lists for tuples, as it is read back


def _claim(folder: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Writes cache.json, or checks that the existing one has the same data and keys."""
    path = folder / cached.DESCRIPTION
    if not path.exists():
        others = [one.name for one in folder.iterdir() if one.name != workdir.LOCK]
        if others:
            raise ConfigError(
                f"out: expected a new folder, or one that holds a cache, got {folder}, which holds "
                f"{min(others)}"
            )
        with workdir.writing(folder):
            _write_description(folder, described)
        return
    there = cached.read(folder)
    found = [
        f"{key}: {there.get(key)!r} there, {value!r} now"
        for key, value in described.items()
        if key not in ("complete", "settings", *cached.FINGERPRINTS) and there.get(key) != value
    ]
    found += cached.differences(there["settings"], described["settings"])
    found += cached.changes(there, described)
    if found:
        raise ConfigError(
            f"out: expected a new folder, or the cache of these images, got {folder}, a cache of "
            f"others: {'; '.join(found)}"
        )


def _write_description(folder: pathlib.Path, described: Mapping[str, Any]) -> None:
    path = folder / cached.DESCRIPTION
    temporary = _temporary(path)
    temporary.write_text(json.dumps(described) + "\n", encoding="utf-8")
    _settle(temporary, path)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".tmp")


def _settle(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a file after it is flushed to disk, so that a crash leaves it whole or absent."""
    with open(temporary, "r+b") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _is_whole(shard: cached.Shard) -> bool:
    if not shard.is_done:
        return False
    try:
        cached.read_shard(shard)
    except DataError as error:
        print(error, flush=True)
        return False
    return True


def _require_space(folder: pathlib.Path, images: int, shape: Sequence[int]) -> None:
    needed = images * int(np.prod(shape))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"out: expected {needed / 2**30:,.1f} GiB of free space for {images:,} images of "
            f"{' x '.join(map(str, shape))}, got {free / 2**30:,.1f} GiB in {folder}"
        )


def _write_shard(split: Split, shard: cached.Shard, shape: Sequence[int], threads: int) -> None:
    """Writes a shard: first its pixels, then labels and names, which make it complete."""
    from array_record.python.array_record_module import ArrayRecordWriter

    rows = shard.rows
    step = max(1, min(64, _CHUNK_BYTES // int(np.prod(shape))))
    chunks = [np.arange(i, min(i + step, rows.stop)) for i in range(rows.start, rows.stop, step)]
    temporary, fine = _temporary(shard.records), []
    try:
        writer = ArrayRecordWriter(str(temporary), _OPTIONS)
        for batch in ahead(split.read, chunks, threads=threads):
            for record in _records(batch):
                writer.write(record)
            fine.append(batch["fine"])
        writer.close()
        count = cached.count_records(temporary)
        if count != len(rows):
            raise RuntimeError(f"{count} of {len(rows)} records were written")
        _settle(temporary, shard.records)
        temporary = _temporary(shard.labels)
        with open(temporary, "wb") as file:  # np.savez would append .npz to a path
            names = split.names[rows.start : rows.stop]
            np.savez(file, allow_pickle=False, fine=np.concatenate(fine), names=names)
        _settle(temporary, shard.labels)
    except (OSError, RuntimeError) as error:
        raise CacheError(
            f"out: expected to write {shard.records}, got: {error}. The same command continues it"
        ) from error


def _records(batch: Batch) -> Iterator[bytes]:
    labels = np.stack([batch["fine"], batch["coarse"]], axis=1).astype(cached.LABELS)
    for pair, image in zip(labels, batch["image"], strict=True):
        yield pair.tobytes() + image.tobytes()
