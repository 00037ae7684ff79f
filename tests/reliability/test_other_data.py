"""A folder that holds a run knows its data: other data are refused, naming what has changed."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from thanos_jax import config as schema
from thanos_jax import resume, workdir
from thanos_jax import run as run_module
from thanos_jax.data import fingerprint, sources
from thanos_jax.data.splits import DataError
from thanos_jax.errors import ConfigError


@pytest.fixture
def images(tmp_path):
    """24 images of three classes with labels.csv."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["filename,coarse,fine,split"]
    for fine, coarse in (("cat", "pet"), ("dog", "pet"), ("cow", "farm")):
        for number in range(8):
            pixels = np.random.default_rng(len(lines)).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / f"{fine}{number}.png")
            split = {0: "test", 1: "validation"}.get(number, "train")
            lines.append(f"{fine}{number}.png,{coarse},{fine},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def configured(runs, images, **changes):
    return runs.config(**{"data.name": "folder", "data.data_dir": str(images), **changes})


def leave(folder, config, *, finished):
    """Leaves what a run leaves, finished or stopped."""
    folder.mkdir()
    resume.claim(folder, config, sources.load(config.data).fingerprint)
    if finished:
        (folder / "results.json").write_text('{"left": 1}', encoding="utf-8")
    else:
        (folder / "checkpoints" / "5").mkdir(parents=True)


def edit(images, old, new):
    path = images / "labels.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def add(images, name, labels):
    shutil.copy(images / "cat3.png", images / name)
    edit(images, "cat3.png", f"{name},{labels},train\ncat3.png")


def shrink(images):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "dog2.png")


CHANGES = {
    "label": (
        lambda images: edit(images, "cat3.png,pet,cat", "cat3.png,pet,dog"),
        r"  1 images with another label: cat3\.png$",
    ),
    "class": (
        lambda images: edit(images, ",cow,", ",ox,"),
        r"1 classes gone: cow of farm\n  1 classes new: ox of farm\n  8 images with another label",
    ),
    "new class": (
        lambda images: [add(images, f"ant{n}.png", "farm,ant") for n in range(2)]
        and edit(images, "ant1.png,farm,ant,train", "ant1.png,farm,ant,test"),
        r"2 images new: ant0\.png, ant1\.png\n  1 classes new: ant of farm$",
    ),
    "new image": (lambda images: add(images, "new.png", "pet,cat"), r"  1 images new: new\.png$"),
    "gone": (
        lambda images: edit(images, "dog7.png,pet,dog,train\n", ""),
        r"  1 images gone: dog7\.png$",
    ),
    "names": (
        lambda images: (images / "cow4.png").rename(images / "kuh.png")
        and edit(images, "cow4.png", "kuh.png"),
        r"  1 images gone: cow4\.png\n  1 images new: kuh\.png$",
    ),
    "split": (
        lambda images: edit(images, "dog1.png,pet,dog,validation", "dog1.png,pet,dog,train"),
        r"  1 images in another split: dog1\.png$",
    ),
    "file": (shrink, r"  1 files of another size: dog2\.png$"),
    "order": (
        lambda images: edit(images, "cat3.png,pet,cat,train\ncat4.png,pet,cat,train\n",
                            "cat4.png,pet,cat,train\ncat3.png,pet,cat,train\n"),
        r"  images in another order$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_refused_and_what_changed_is_named(
    change, finished, runs, images, tmp_path, monkeypatch
):
    config, folder = configured(runs, images), tmp_path / "run"
    leave(folder, config, finished=finished)
    alter, message = CHANGES[change]
    alter(images)
    monkeypatch.setattr(run_module.stages, "build", lambda *a, **k: pytest.fail("built"))
    before = (folder / workdir.DATA).read_bytes()
    with pytest.raises(ConfigError, match=rf"(?s)run of other data; .* --overwrite.*{message}"):
        run_module.run(config, folder)
    assert (folder / workdir.DATA).read_bytes() == before
    # Nor if they changed since they were looked at, or another run began.
    with pytest.raises(ConfigError, match=rf"(?s)run of other data; .*{message}"):
        resume.claim(folder, config, sources.known(config.data))
    # Asked to, it begins anew, and has removed the rest once it can start.
    assert resume.standing(folder, config, lambda: sources.known(config.data), overwrite=True) == (
        finished, None,
    )  # fmt: skip
    resume.claim(folder, config, sources.known(config.data), overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"config.json", workdir.DATA}
    assert json.loads((folder / workdir.DATA).read_text()) == sources.known(config.data)


def test_the_same_data_elsewhere_are_the_same(runs, images, tmp_path, capsys, monkeypatch):
    config, folder = configured(runs, images), tmp_path / "run"
    leave(folder, config, finished=True)
    shutil.copytree(images, tmp_path / "moved")
    moved = configured(runs, tmp_path / "moved")
    assert run_module.run(moved, folder) == {"left": 1}
    # In the home folder, which no shell has expanded.
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_module.run(moved, os.path.join("~", "run")) == {"left": 1}
    assert not os.path.exists("~")
    shutil.rmtree(images)
    assert run_module.run(config, folder) == {"left": 1}
    assert "the data are not where they were: data.data_dir: expected" in capsys.readouterr().out
    edit(tmp_path / "moved", "cat3.png,pet,cat", "cat3.png,pet,")
    with pytest.raises(DataError, match="line 5: fine is empty"):
        run_module.run(moved, folder)


def test_an_image_damaged_since_may_be_left_out(runs, images, tmp_path):
    config = configured(runs, images, **{"data.on_damaged": "skip"})
    leave(tmp_path / "run", config, finished=True)
    path = images / "cat3.png"
    path.write_bytes(path.read_bytes()[:-20])
    assert run_module.run(config, tmp_path / "run") == {"left": 1}
    config.data.on_damaged = "stop"
    with pytest.raises(ConfigError, match=r"1 files of another size: cat3\.png"):
        run_module.run(config, tmp_path / "run")


def test_class_folders_and_images_without_labels_are_known_too(tmp_path):
    config = schema.default()
    config.data.update(name="folder", data_dir=str(tmp_path), unlabelled="?")
    for number, name in enumerate(("cat", "dog", "?") * 4):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{number}.png").write_bytes(b"x" * number)
    before = sources.known(config.data)
    (tmp_path / "?" / "2.png").rename(tmp_path / "cat" / "2.png")
    (tmp_path / "dog" / "1.png").rename(tmp_path / "?" / "1.png")
    # With other images, others are drawn for test.
    assert fingerprint.changes(before, sources.known(config.data))[:2] == [
        f"2 images gone: dog{os.sep}1.png, ?{os.sep}2.png",
        f"2 images new: cat{os.sep}2.png, ?{os.sep}1.png",
    ]


def test_a_map_of_classes_that_was_edited(tmp_path):
    config = schema.default()
    path = tmp_path / "map.csv"
    config.data.update(name="tiny_imagenet", coarse_map=str(path))
    path.write_text("wnid,coarse\nn1,a\nn2,b\n")
    before = sources.known(config.data)
    path.write_text("wnid,coarse\nn1,a\nn2,c\n")
    assert fingerprint.changes(before, sources.known(config.data)) == [
        "1 lines gone: n2,b", "1 lines new: n2,c",
    ]  # fmt: skip
    assert fingerprint.changes(before, before) == []
    config.data.coarse_map = ""
    assert sources.known(config.data) is None
