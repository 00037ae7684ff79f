"""Embeds many images: threads read ahead, devices encode, files are written atomically.

The result is one file, or a folder of shards with a manifest. A shard holds a fixed number of
images in the order of the source. It is written when it is complete, and is not computed again if
it exists. Process i of n computes the shards i, i + n, ... on its own devices, and waits for no
other process.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from thanos_jax import agree, workdir
from thanos_jax.data.ahead import ahead
from thanos_jax.data.splits import DataError
from thanos_jax.downstream.arrays import unit_rows
from thanos_jax.errors import ConfigError
from thanos_jax.train.progress import open_bar
from thanos_jax.trained import images, tables
from thanos_jax.trained.images import Part, Source
from thanos_jax.trained.model import Model
from thanos_jax.trained.tables import Table, TableError

MANIFEST = "manifest.json"
_OUTPUTS = ("embedding", "prediction", "probability")
CHUNK = 256  # images that a thread reads at a time, fewer if they are large
_CHUNK_BYTES = 2**24
_NAMED = 10  # damaged images named on stderr
_SECONDS = 10.0  # between two lines of progress, where there is no terminal


class Settings(NamedTuple):
    """How images are embedded.

    Attributes:
      batch_size: images encoded at a time; None: the run's batch size in evaluation.
      read_threads: threads that read and decode images; 0: one per processor, at most 16.
      on_damaged: "stop", or "skip", which leaves out images that cannot be read.
      normalize: whether embeddings are divided by their length.
    """

    batch_size: int | None = None
    read_threads: int = 0
    on_damaged: str = "stop"
    normalize: bool = False

    @property
    def threads(self) -> int:
        """The number of threads that read."""
        return self.read_threads or min(os.cpu_count() or 1, 16)


class Done(NamedTuple):
    """Counts of a call that has embedded images.

    Attributes:
      images: number of images that this process went through in this call.
      skipped: how many of them could not be read.
      seconds: time taken, without compilation.
    """

    images: int
    skipped: int
    seconds: float


def to_file(model: Model, source: Source, path: pathlib.Path, settings: Settings) -> Done:
    """Embeds all images of a source into one file, sorted by name.

    Args:
      model: from `thanos_jax.load`.
      source: from `thanos_jax.trained.images.open_source`.
      path: ends in .npz or .parquet; an existing file is replaced.
      settings: see `Settings`.

    Raises:
      DataError: an image cannot be read with on_damaged "stop", or none can be read.
      MissingDependencyError: for .parquet, pyarrow is not installed.
      WorkdirError: the file cannot be written.
      ConfigError: there are several processes.
    """
    if jax.process_count() > 1:
        raise ConfigError(f"out: expected a folder of shards with several processes, got {path}")
    tables.require(path.suffix[1:])
    with workdir.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = range(len(source.names))
    return _embed(model, source, [rows], lambda _, table: tables.write(path, table), settings)


def in_memory(model: Model, source: Source, settings: Settings) -> Table:
    """Returns the embeddings of all images of a source; arguments and errors as `to_file`."""
    found: list[Table] = []
    rows = range(len(source.names))
    _embed(model, source, [rows], lambda _, table: found.append(table), settings)
    return found[0]


def to_shards(
    model: Model,
    source: Source,
    folder: pathlib.Path,
    settings: Settings,
    *,
    shard_rows: int = 65_536,
    form: str = "npz",
) -> Done:
    """Embeds the images of a source into a folder of shards; continues if called again.

    Every process makes this call and computes its share.

    Args:
      model: from `thanos_jax.load`.
      source: from `thanos_jax.trained.images.open_source`.
      folder: gets manifest.json and shard-00000-of-00002.npz, ...
      settings: see `Settings`.
      shard_rows: images in a shard.
      form: "npz" or "parquet".

    Raises:
      ConfigError: the folder holds embeddings of another model, of other images or in other
        shards; names what differs.
      DataError, MissingDependencyError, WorkdirError: as `to_file`.
    """
    tables.require(form)
    plan = _plan(model, source, settings, shard_rows, form)
    agree.from_first(functools.partial(_claim, folder, plan))
    todo = [
        (path, rows)
        for number, (path, rows) in enumerate(_shards(folder, plan))
        if number % jax.process_count() == jax.process_index() and not path.exists()
    ]
    count = len(plan["shards"])
    print(f"{folder}: {len(todo)} of {count} shards to do in this process", flush=True)
    if not todo:
        return Done(0, 0, 0.0)
    paths, rows = zip(*todo, strict=True)
    return _embed(
        model, source, rows, lambda number, table: tables.write(paths[number], table), settings
    )


def read(path: str | pathlib.Path) -> Table:
    """Reads embeddings from one file, or from a complete folder of shards.

    Raises:
      TableError: the file or folder does not exist or holds something else, or shards are missing.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return tables.read(path)
    try:
        plan = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: expected a folder of embeddings: {error}") from error
    shards = [shard for shard, _ in _shards(path, plan)]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise TableError(
            f"{path}: expected {len(shards)} shards, of which {len(missing)} are missing, such as "
            f"{missing[0]}; repeat the command that wrote them to add the rest"
        )
    return tables.join([tables.read(shard) for shard in shards])


def _plan(
    model: Model, source: Source, settings: Settings, shard_rows: int, form: str
) -> dict[str, Any]:
    """Returns the content of manifest.json, in which an existing folder must agree."""
    rows, count = len(source.names), -(-len(source.names) // shard_rows)
    return {
        "model": model.fingerprint,
        "part": model.part,
        "step": model.step,
        "images": rows,
        "names": hashlib.sha256("\n".join(source.names).encode()).hexdigest()[:16],
        "shard_rows": shard_rows,
        "shards": [f"shard-{number:05d}-of-{count:05d}.{form}" for number in range(count)],
        "embedding_dim": model.embedding_dim,
        "normalize": settings.normalize,
    }


def _shards(folder: pathlib.Path, plan: dict[str, Any]) -> Iterator[tuple[pathlib.Path, range]]:
    """Yields the path and the rows of each shard."""
    size = plan["shard_rows"]
    for number, name in enumerate(plan["shards"]):
        yield folder / name, range(number * size, min((number + 1) * size, plan["images"]))


def _claim(folder: pathlib.Path, plan: dict[str, Any]) -> bytes:
    """Writes the manifest, or checks an existing one."""
    path = folder / MANIFEST
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"out: expected a manifest in {path}: {error}") from error
        other = [
            f"{key}: {there.get(key)!r} there, {value!r} now"
            for key, value in plan.items()
            if there.get(key) != value and key != "shards"
        ]
        if other or there.get("shards") != plan["shards"]:
            raise ConfigError(
                f"out: {folder} holds embeddings of another kind; choose another folder: "
                + ("; ".join(other) or "the names of the shards differ")
            )
        return b""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"out: expected a new folder, or one of shards, got {folder}")
    with workdir.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        workdir.write_atomically(path, json.dumps(plan, indent=2) + "\n")
    return b""


def _embed(
    model: Model,
    source: Source,
    shards: Sequence[range],
    keep: Callable[[int, Table], None],
    settings: Settings,
) -> Done:
    """Embeds shards; passes the number and table of each to `keep` as soon as it is complete."""
    nothing = np.zeros((1, *model.image_shape), np.uint8)
    model.submit(nothing, _OUTPUTS, settings.batch_size)()  # compiles
    started = time.perf_counter()
    skipped: list[str] = []
    total = sum(map(len, shards))
    parts = _counted(read_ahead(model, source, shards, settings), total)
    for number, group in itertools.groupby(parts, key=lambda part: part[0]):
        table = _of_shard(model, source, (part for _, part in group), settings)
        keep(number, table)
        skipped += table.skipped.tolist()
    return Done(total, len(skipped), time.perf_counter() - started)


def read_ahead(
    model: Model, source: Source, shards: Sequence[range], settings: Settings
) -> Iterator[tuple[int, Part]]:
    """Yields (shard number, images) in order; threads read ahead."""
    bytes_each = math.prod(model.image_shape)
    chunk = max(1, min(CHUNK, _CHUNK_BYTES // bytes_each))

    def read_one(task: tuple[int, range]) -> tuple[int, Part]:
        return task[0], images.read(source, task[1], on_damaged=settings.on_damaged)

    tasks = (
        (number, rows[start : start + chunk])
        for number, rows in enumerate(shards)
        for start in range(0, len(rows), chunk)
    )
    return ahead(read_one, tasks, threads=settings.threads)


def _of_shard(model: Model, source: Source, parts: Iterable[Part], settings: Settings) -> Table:
    """Encodes the images of one shard, in batches."""
    rows: list[np.ndarray] = []
    damaged: dict[int, str] = {}
    found: list[dict[str, np.ndarray]] = []
    under_way: collections.deque[Callable[[], dict[str, np.ndarray]]] = collections.deque()

    def wanted() -> Iterator[np.ndarray]:
        for part in parts:
            rows.append(part.rows)
            damaged.update(part.damaged)
            yield part.images

    for batch in _rebatched(wanted(), model.padded(settings.batch_size)):
        under_way.append(model.submit(batch, _OUTPUTS, settings.batch_size))
        if len(under_way) > 2:
            found.append(under_way.popleft()())
    found += [wait() for wait in under_way]
    if damaged:
        _say(damaged)
    if not found:
        first = next(iter(damaged.values()))
        raise DataError(f"expected at least one image that can be read, got none; first: {first}")
    outputs = {name: np.concatenate([one[name] for one in found]) for name in _OUTPUTS}
    predicted = model.predictions(outputs)
    embedding = outputs["embedding"]
    return Table(
        _named(source, np.concatenate(rows).tolist()),
        unit_rows(embedding) if settings.normalize else embedding,
        predicted.names,
        predicted.probability,
        _named(source, sorted(damaged)),
        source.root,
        model.fingerprint,
    )


def _named(source: Source, rows: Iterable[int]) -> np.ndarray:
    return np.array([source.names[row] for row in rows], np.str_)


def _say(damaged: dict[int, str]) -> None:
    lines = "\n".join(f"  {message}" for message in list(damaged.values())[:_NAMED])
    print(
        f"WARNING: {len(damaged)} images cannot be read and are left out; the first:\n{lines}",
        file=sys.stderr,
        flush=True,
    )


def _rebatched(parts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields the same rows, `size` at a time."""
    held = np.zeros(0)
    for part in parts:
        held = np.concatenate([held, part]) if len(held) else part
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if len(held):
        yield held


def _counted(parts: Iterable[tuple[int, Part]], total: int) -> Iterator[tuple[int, Part]]:
    """Yields the parts, and shows progress: a bar on a terminal, or else lines."""
    done, started = 0, time.perf_counter()
    said = started
    with open_bar() as bar:
        task = bar.add_task("images", total=total) if bar else None
        for number, part in parts:
            yield number, part
            done += len(part.rows) + len(part.damaged)
            now = time.perf_counter()
            if bar is not None and task is not None:
                bar.update(task, completed=done)
            elif now - said > _SECONDS:
                said, speed = now, done / (now - started)
                print(f"{done:,} of {total:,} images, {speed:,.0f} images/s", flush=True)
