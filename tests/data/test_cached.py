"""A cache has the bits of the data set it was made of, or is refused."""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import own_images
import pytest
import stored_sets
import test_tfds_sets as of_tfds
import test_tiny_imagenet as of_tiny

from thanos_jax import config as schema
from thanos_jax import interruption, workdir
from thanos_jax import run as run_module
from thanos_jax.data import batches, cached, caching, sources
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import DataError
from thanos_jax.errors import ConfigError


def config_of(root, **changes):
    config = schema.default()
    config.data.update(
        {"name": "folder", "data_dir": str(root), "image_size": 4, "memory_limit_gib": 0.0}
    )
    config.data.update(changes)
    schema.check(config)
    return config.data


def write(config_data, out, **options):
    return caching.write(sources.as_stored(config_data), config_data, out, threads=2, **options)


def from_cache(config_data, out, **changes):
    """The config that reads the cache, without the data it was made of."""
    found = config_data.copy_and_resolve_references()
    found.update({"cache": str(out), "data_dir": "", **changes})
    return found


def assert_same(found, expected):
    changed = dict.fromkeys(("splits", "unlabelled"))
    assert found._replace(**changed) == expected._replace(**changed)
    every = [*found.splits.items(), ("unlabelled", found.unlabelled)]
    others = {**expected.splits, "unlabelled": expected.unlabelled}
    for name, split in every:
        if others[name] is None:
            assert split is None
            continue
        np.testing.assert_array_equal(split.names, others[name].names)
        batch, other = map(own_images.as_arrays, (split, others[name]))
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two sizes in two levels of folders, three of them without a label."""
    root = own_images.write(tmp_path_factory.mktemp("own"), each=12)
    for number in range(3):
        own_images.save(root / "none" / f"é{number}.png", own_images.pixels(number + 900, 9, 7))
    with (root / "labels.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"none/é{number}.png,,\n" for number in range(3))
    return root


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    """A cache of them in shards of 8; to be read only."""
    out = tmp_path_factory.mktemp("cache") / "whole"
    assert write(config_of(folder), out, shard_rows=8) == (39, 39)
    assert not list(out.glob("*.tmp"))
    return out


@pytest.fixture
def copied(cache, tmp_path):
    return pathlib.Path(shutil.copytree(cache, tmp_path / "cache"))


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_a_cache_of_files_has_their_bits(limit, folder, cache):
    config = config_of(folder, memory_limit_gib=limit)
    found, expected = sources.load(from_cache(config, cache)), sources.load(config)
    assert found.splits["train"].in_memory == (limit > 0)
    assert (len(found.unlabelled), len(found.splits["validation"])) == (3, 3)
    assert_same(found, expected)
    # The files are there too: they are those of the cache.
    assert_same(sources.load(from_cache(config, cache, data_dir=str(folder))), expected)
    assert sources.known(from_cache(config, cache)) == sources.known(config)
    steps = dict(seed=3, batch_size=5, first_step=2, last_step=9, read_threads=2)
    every = [batches.train_batches(one.splits["train"], **steps) for one in (found, expected)]
    for one, other in zip(*every, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_one_cache_serves_other_splits_and_classes(folder, cache):
    # None of these changes what the loader hands over.
    config = config_of(folder, split_seed=7, validation_fraction=0.3, classes="fine")
    assert_same(sources.load(from_cache(config, cache)), sources.load(config))


@pytest.mark.parametrize("changes", [{"coarse_key": "kind"}, {"coarse_map": True}])
def test_a_cache_of_records_of_tfds_has_their_bits(changes, tmp_path):
    of_tfds.write(tmp_path / "data", {"train": 40, "validation": 5, "test": 15})
    if "coarse_map" in changes:
        table = tmp_path / "map.csv"
        table.write_text("fine,coarse\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(5)))
        changes = {"coarse_map": str(table)}
    config = config_of(tmp_path / "data", name="tfds", tfds="shapes", image_size=3, **changes)
    assert write(config, tmp_path / "out", shard_rows=16).images == 60
    expected = sources.load(config)
    if "coarse_map" in changes:
        # The same lines in another place are the same classes; others are not.
        moved = table.rename(tmp_path / "moved.csv")
        changes = {"coarse_map": str(moved)}
    found = sources.load(from_cache(config, tmp_path / "out", **changes))
    assert_same(found, expected)
    if "coarse_map" in changes:
        moved.write_text(moved.read_text() + "5,c\n")
        with pytest.raises(DataError, match=r"made with other keys: data\.coarse_map"):
            sources.load(from_cache(config, tmp_path / "out", **changes))


def test_a_draw_of_the_loader_is_that_of_the_cache(monkeypatch, tmp_path):
    """Of a set of which a loader draws images, the seed of the draw is one of the keys."""
    digits = config_of("", name="digits", image_size=0)
    write(digits, tmp_path / "out")
    sources.load(from_cache(digits, tmp_path / "out", split_seed=1))
    monkeypatch.setitem(SPECS, "digits", dataclasses.replace(SPECS["digits"], kept={0: 1}))
    write(digits, tmp_path / "drawn")
    with pytest.raises(DataError, match=r"data\.split_seed: 42 there, 1 now"):
        sources.load(from_cache(digits, tmp_path / "drawn", split_seed=1))


def test_writing_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    config, out, real = config_of(folder), tmp_path / "out", caching._write_shard
    before = []

    def stopped(split, shard, *arguments):
        if len(before) == 2:
            (out / f"{shard.records.name}.tmp").write_bytes(b"half of a shard")
            raise KeyboardInterrupt
        before.append(shard)
        real(split, shard, *arguments)

    monkeypatch.setattr(caching, "_write_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(config, out, shard_rows=8)
    monkeypatch.setattr(caching, "_write_shard", real)
    message = r"complete cache, got .*, where 4 shards are missing, such"
    with pytest.raises(DataError, match=message):
        sources.load(from_cache(config, out))
    # Labels are the last of a shard: without them it does not count.
    before[0].labels.unlink()
    with pytest.raises(DataError, match="where 5 shards are missing"):
        sources.load(from_cache(config, out))
    written_before = before[1].records.stat().st_mtime_ns
    assert write(config, out, shard_rows=8) == (39, 31)
    assert before[1].records.stat().st_mtime_ns == written_before
    assert write(config, out, shard_rows=8) == (39, 0)
    assert_same(sources.load(from_cache(config, out)), sources.load(config))
    assert not list(out.glob("*.tmp"))
    assert not (out / workdir.LOCK).exists()


def test_other_keys_and_other_data_are_refused(folder, cache, tmp_path):
    with pytest.raises(DataError, match=r"other keys: data\.image_size: 4 there, 5 now"):
        sources.load(from_cache(config_of(folder, image_size=5), cache))
    with pytest.raises(DataError, match=r"data\.decode: 'full' there, 'scaled' now"):
        sources.load(from_cache(config_of(folder, decode="scaled"), cache))
    with pytest.raises(DataError, match=r"data\.max_megapixels: 500\.0 there, 1\.0 now"):
        sources.load(from_cache(config_of(folder, max_megapixels=1.0), cache))
    with pytest.raises(ConfigError, match=r"out: .* data\.matte: 'white' there, 'black' now"):
        write(config_of(folder, matte="black"), cache, shard_rows=8)
    with pytest.raises(ConfigError, match=r"out: .* shard_rows: 8 there, 9 now"):
        write(config_of(folder), cache, shard_rows=9)
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    own_images.save(other / "cat" / "0.png", own_images.pixels(0, 12, 12))
    message = r"1 files of another size: cat/0\.png"
    with pytest.raises(DataError, match=rf"data\.cache: .*{message}"):
        sources.load(from_cache(config_of(folder), cache, data_dir=str(other)))
    with pytest.raises(ConfigError, match=rf"out: .*{message}"):
        write(config_of(other), cache, shard_rows=8)


def assert_refused(config, out, message, **options):
    """A cache is not read beside other data, nor gone on with; it stays as it was."""
    with pytest.raises(DataError, match=rf"data\.cache: .*{message}"):
        sources.load(from_cache(config, out, data_dir=config.data_dir))
    gone = next(out.glob("*.npz"))
    gone.rename(out.parent / gone.name)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match=rf"out: .*{message}"):
        write(config, out, **options)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out.parent / gone.name).rename(gone)


def test_a_cache_of_tiny_imagenet_is_not_mixed_with_other_images(tmp_path):
    root = of_tiny.write(tmp_path / "data")
    config = config_of(root, name="tiny_imagenet", image_size=0)
    write(config, tmp_path / "out", shard_rows=8)
    assert write(config, tmp_path / "out", shard_rows=8) == (28, 0)
    found = sources.load(from_cache(config, tmp_path / "out", data_dir=str(root)))
    assert_same(found, sources.load(config))
    # It is not what a run is known again by.
    assert found.fingerprint is None
    for number, path in enumerate(sorted(root.glob("*/**/*.JPEG"))):
        path.write_bytes(of_tiny.jpeg(5000 + number))
    message = r"\d+ files of another size: train/n01443537/images/n01443537_0\.JPEG"
    assert_refused(config, tmp_path / "out", message, shard_rows=8)
    root.joinpath("train", "n02123045", "images", "n02123045_4.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 images gone: train/n02123045/images/n02123045_4"):
        sources.load(from_cache(config, tmp_path / "out", data_dir=str(root)))


@pytest.mark.parametrize("kind", ["bytes", "version", "size", "files"])
def test_a_cache_of_records_of_tfds_is_not_mixed_with_others(kind, tmp_path):
    sizes = {"train": 40, "test": 15}
    folder = of_tfds.write(tmp_path / "data", sizes) / "shapes" / "1.0.0"
    config = config_of(tmp_path / "data", name="tfds", tfds="shapes", image_size=3)
    write(config, tmp_path / "out")
    assert write(config, tmp_path / "out") == (55, 0)
    sources.load(from_cache(config, tmp_path / "out", data_dir=config.data_dir))
    info, records = folder / "dataset_info.json", next(folder.glob("*-train.array_record-*"))
    if kind == "bytes":
        info.write_text(info.read_text().replace('"numBytes": "1"', '"numBytes": "2"', 1))
        message = r"gone: train: 40 records of 1 bytes; 1 .* new: train: 40 records of 2 bytes"
    elif kind == "version":
        of_tfds.write(tmp_path / "data", sizes, folder="shapes/1.0.1")
        message = r"gone: version 1\.0\.0; 1 lines of metadata new: version 1\.0\.1"
    elif kind == "size":
        # An image that the one after it replaces, by the rules of the format.
        noise = np.random.default_rng(0).integers(0, 256, (40, 4000), np.uint8)
        every = [
            stored_sets.example(more.tobytes()) + of_tfds.record(number)
            for number, more in enumerate(noise)
        ]
        stored_sets.write_array_record(records, every)
        message = rf"1 files of another size: {records.name}"
    else:
        stem = records.name.removesuffix("00000-of-00001")
        moved = [folder / f"{stem}{number:05d}-of-00002" for number in range(2)]
        every = [of_tfds.record(number) for number in range(40)]
        stored_sets.write_array_record(moved[0], every[:30])
        stored_sets.write_array_record(moved[1], every[30:])
        info.write_text(info.read_text().replace('["40"]', '["30", "10"]'))
        message = rf"1 record files gone: {records.name}; 2 record files new: {moved[0].name}"
    assert_refused(config, tmp_path / "out", message)


def test_a_shard_is_on_the_disk_before_it_counts(folder, tmp_path, monkeypatch):
    synced, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    named = []

    def checked(source, target):
        if pathlib.Path(target).suffix in (".array_record", ".npz", ".json"):
            assert os.stat(source).st_ino in synced
            named.append(pathlib.Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked)
    write(config_of(folder), tmp_path / "out")
    assert len(named) == 2 * 3 + 2
    assert named[0] == named[-1] == cached.DESCRIPTION


def test_what_cannot_be_a_cache_is_said(folder, tmp_path, monkeypatch):
    config = config_of(folder)
    with pytest.raises(DataError, match=r"data\.cache: expected a folder written by python -m"):
        sources.load(from_cache(config, tmp_path / "nothing"))
    (tmp_path / "cache.json").write_text("[]")
    with pytest.raises(DataError, match=r"data\.cache: expected a folder written by python -m"):
        sources.load(from_cache(config, tmp_path))
    with pytest.raises(ConfigError, match=r"out: expected a new folder, .* holds cat"):
        write(config, folder)
    assert not (folder / cached.DESCRIPTION).exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=39 * 48 - 1))
    with pytest.raises(
        ConfigError, match=r"out: expected .* free space for 39 images of 4 x 4 x 3"
    ):
        write(config, tmp_path / "full")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=39 * 48))
    (tmp_path / "full" / "test-00000-of-00001.array_record.tmp").mkdir()
    with pytest.raises(caching.CacheError, match=r"expected to write .*test-00000-of-00001"):
        write(config, tmp_path / "full")


@pytest.mark.parametrize("kind", ["record", "cut", "labels", "few labels", "count"])
def test_damage_is_named(kind, folder, copied):
    shard = copied / "train-00001-of-00004.array_record"
    content = bytearray(shard.read_bytes())
    if kind == "record":
        place = content.index(sources.load(from_cache(config_of(folder), copied)).splits[
            "train"
        ].split._fetch(np.array([9]))[0])  # fmt: skip
        content[place + 20] ^= 1
        shard.write_bytes(content)
    elif kind == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif kind == "labels":
        shard.with_suffix(".npz").write_bytes(b"PK")
    elif kind == "few labels":
        shutil.copy(copied / "train-00003-of-00004.npz", shard.with_suffix(".npz"))
    else:
        shutil.copy(copied / "train-00003-of-00004.array_record", shard)
    with pytest.raises(DataError) as error:
        own_images.as_arrays(sources.load(from_cache(config_of(folder), copied)).splits["train"])
    assert str(copied / "train-00001-of-00004") in str(error.value)
    # What is whole stays; a record's damage shows when it is read.
    config, other = config_of(folder), copied / "train-00000-of-00004.array_record"
    before = other.stat().st_mtime_ns
    if kind == "record":
        assert write(config, copied, shard_rows=8) == (39, 0)
        shard.unlink()
    assert write(config, copied, shard_rows=8) == (39, 8)
    assert other.stat().st_mtime_ns == before
    assert_same(sources.load(from_cache(config, copied)), sources.load(config))


def test_images_left_out_stay_out(folder, tmp_path, capsys):
    root = pathlib.Path(shutil.copytree(folder, tmp_path / "data"))
    damaged = root / "cow" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    out, config = tmp_path / "out", config_of(root, on_damaged="skip")
    assert write(config, out).images == 38
    assert "1 of" in capsys.readouterr().err
    found = sources.load(from_cache(config, out))
    assert len(found.skipped) == 1
    assert_same(found, sources.load(config))
    with pytest.raises(DataError, match=r"data\.on_damaged: 'skip' there, 1 images out"):
        sources.load(from_cache(config, out, on_damaged="stop"))


def test_the_command_writes_what_a_run_reads(folder, tmp_path, command_module, monkeypatch, capsys):
    config = schema.default()
    config.data.update(config_of(folder))
    config.data.memory_limit_gib = 4.0
    with command_module("thanos_jax.cache", "config", "out", "shard_rows", "read_threads") as cache:
        values = {"_CONFIG": config, "_OUT": str(tmp_path / "out"), "_ROWS": 20, "_THREADS": 0}
        for name, value in values.items():
            monkeypatch.setattr(cache, name, SimpleNamespace(value=value))
        monkeypatch.setattr(cache.signal, "signal", lambda *arguments: None)
        cache.main([])
        assert "39 images, 39 of them new" in capsys.readouterr().out
        cache.main([])
        assert "39 images, 0 of them new" in capsys.readouterr().out
        config.data.cache = str(tmp_path / "out")
        with pytest.raises(ConfigError, match=r"config\.data\.cache: expected ''"):
            cache.main([])
    described = json.loads((tmp_path / "out" / cached.DESCRIPTION).read_text())
    assert described["complete"]
    assert described["shard_rows"] == 20
    assert_same(sources.load(from_cache(config.data, tmp_path / "out")), own_images.load(
        folder, image_size=4
    ))  # fmt: skip


@pytest.mark.slow
def test_a_run_on_a_cache_has_the_numbers_of_a_run_on_the_files(tmp_path):
    root = own_images.write(tmp_path / "data", each=12)
    flags = ["--config=configs/folder.py:supcon,mlp", "--config.data.image_size=4"]
    done = subprocess.run(
        [sys.executable, "-m", "thanos_jax.cache", *flags, f"--config.data.data_dir={root}",
         f"--out={tmp_path}/cache"],
        cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "36 images, 36 of them new" in done.stdout
    config = schema.default()
    config.data.update(name="folder", data_dir=str(root), image_size=4)
    config.model.update(encoder="mlp", arrangement="shared", projection=(6,))
    config.model.mlp.widths = (16, 8)
    config.train.update(batch_size=8, max_steps=6, log_every=1, resident="no")
    config.transfer.iterations = 5
    of_files = run_module.run(config, tmp_path / "files")
    config.data.update(cache=str(tmp_path / "cache"), data_dir="", memory_limit_gib=0.0)
    of_cache = run_module.run(config, tmp_path / "cached")

    def losses(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [(record["step"], record["loss"]) for record in map(json.loads, lines)]

    assert len(losses(tmp_path / "files")) == 6
    assert losses(tmp_path / "files") == losses(tmp_path / "cached")
    same = ("coarse_accuracy", "fine_accuracy", "worst_group_accuracy", "steps")
    assert {key: of_files[key] for key in same} == {key: of_cache[key] for key in same}
    # A run that was stopped goes on, on the cache or on the files, as if it had not been.
    data = {"files": {"data_dir": str(root), "cache": ""},
            "cache": {"data_dir": "", "cache": str(tmp_path / "cache")}}  # fmt: skip
    for first, second in (("files", "cache"), ("cache", "files")):
        out = tmp_path / f"{first} first"
        config.data.update(data[first])
        asked = itertools.count()  # before each step and each record
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interruption.Watch, "asked", lambda watch, asked=asked: next(asked) >= 5)
            with pytest.raises(interruption.Interrupted, match="step 3 of 6"):
                run_module.run(config, out)
        config.data.update(data[second])
        resumed = run_module.run(config, out)
        assert {key: resumed[key] for key in same} == {key: of_files[key] for key in same}
        assert losses(out) == losses(tmp_path / "files")
        # Finished, it is the same run on either.
        config.data.update(data[first])
        assert run_module.run(config, out) == resumed
