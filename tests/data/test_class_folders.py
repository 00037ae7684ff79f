"""Class folders without a table."""

import pytest
from own_images import CLASSES, every_image, load, pixels, save

from thanos_jax.data.splits import DataError


def fill(root, *paths, each=6, ending=".png"):
    """`each` images in every folder; returns their bytes -> the folder."""
    written = {}
    for place, path in enumerate(paths):
        for number in range(each):
            image = pixels(1000 * place + number)
            save(root / path / f"{number}{ending}", image)
            written[image.tobytes()] = path
    return written


def test_folders_are_classes(tmp_path):
    written = fill(tmp_path, "tall cat", "Hündin", ".hidden", "__MACOSX")
    (tmp_path / "Hündin" / "Thumbs.db").write_text("")
    dataset = load(tmp_path)
    assert dataset.coarse_names == dataset.fine_names == ("Hündin", "tall cat")
    assert dataset.one_level
    assert {image: (path, path) for image, path in written.items() if path[0] not in "._"} == (
        every_image(dataset)
    )
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 9, "validation": 1, "test": 2,
    }  # fmt: skip


def test_two_levels_are_coarse_and_fine(tmp_path):
    written = fill(tmp_path, *(f"{coarse}/{fine}" for coarse, fine in CLASSES), "farm/cat")
    dataset = load(tmp_path)
    assert dataset.coarse_names == ("farm", "pet")
    assert dataset.fine_names == ("cow", "dog", "farm / cat", "pet / cat")
    assert not dataset.one_level
    for image, (coarse, fine) in every_image(dataset).items():
        assert written[image] == f"{coarse}/{fine.split(' / ')[-1]}"


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ({"train": "train", "val": "validation", "test": "test"}, (6, 6, 6)),
        ({"Training": "train", "valid": "validation", "TEST": "test"}, (6, 6, 6)),
        ({"train": "train", "test": "test"}, (5, 1, 6)),
        ({"train": "train", "val": "test"}, (5, 1, 6)),  # as so many sets are
        ({"train": "train"}, (4, 1, 1)),
    ],
)
@pytest.mark.parametrize("below", ["a", "x/a"])
def test_folders_of_splits(tmp_path, folders, splits, below, capsys):
    written = fill(tmp_path, *(f"{folder}/{below}" for folder in folders))
    dataset = load(tmp_path)
    assert tuple(map(len, dataset.splits.values())) == splits
    assert ("val is the test split" in capsys.readouterr().out) == (
        "val" in folders and "test" not in folders
    )
    test = {image.tobytes() for image in dataset.splits["test"].images}
    for image, path in written.items():
        if len(folders) > 1:
            assert (folders[path.split("/")[0]] == "test") == (image in test)


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, "train", "bus", "Val")
    assert load(tmp_path).fine_names == ("Val", "bus", "train")


def test_endings_in_any_case_links_and_files_that_are_no_images(tmp_path, capsys):
    fill(tmp_path, "a", "b", ending=".PNG")
    for name in ("notes.txt", "a/list.html", "b/x.pdf", "b/data.h5"):
        (tmp_path / name).write_text("no image")
    for number in (1, 2):
        save(tmp_path / ".elsewhere" / f"{number}.png", pixels(70 + number))
    (tmp_path / "c").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    assert len(every_image(load(tmp_path))) == 14
    said = capsys.readouterr().err
    assert "4 files without the extension of an image are ignored" in said
    assert "a/list.html" in said


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("a", "b", "."),
            r"each image of .* in a folder of its class, got '0\.png'; with a labels\.csv",
        ),
        (
            ("a", "b/c"),
            r"all images of .* in CLASS/ or all in COARSE/FINE/, got 'a/0\.png' and 'b/c/0",
        ),
        (("a/b/c", "d"), r"in CLASS/ or COARSE/FINE/, got 'a/b/c/0\.png'"),
        (
            ("train/a", "test/a", "extra/a"),
            r"only folders of splits .* test, train are, got 'extra' t",
        ),
        (("test/a", "val/a"), r"expected a folder train in .*, got test, val"),
        (("train/a", "train/b", "test/a"), r"'b' has 1 images, none of them in the test split"),
    ],
)
def test_folders_that_cannot_be_used_are_named(tmp_path, folders, message):
    fill(tmp_path, *folders, each=1)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_table_goes_before_folders(tmp_path):
    fill(tmp_path, "a", "b")
    rows = [f"{path}/{n}.png;c{n % 2}" for path in "ab" for n in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["filename;label", *rows]))
    assert load(tmp_path).fine_names == ("c0", "c1")
    assert load(tmp_path).one_level
