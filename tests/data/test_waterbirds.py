"""Waterbirds in the layout of group DRO's archive, written here."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import DataError, DatasetNotFound, group_counts, sources

FOLDER = "waterbird_complete95_forest2water2"
PLACES = ("/b/bamboo_forest/00001544.jpg", "/o/ocean/00002544.jpg")
# (y, place, split) -> images.
COUNTS = {
    (y, place, split): count
    for split, counts in enumerate(([7, 2, 1, 4], [2, 2, 1, 1], [3, 3, 2, 2]))
    for (y, place), count in zip(((0, 0), (0, 1), (1, 0), (1, 1)), counts, strict=True)
}


def colour(number):
    """A grey level by which an image is known, in the middle of 8-pixel blocks of JPEG."""
    return 6 * number


def write(root, size=lambda number: (40 + number % 3, 30 + number % 2)):
    """Plain images; number i has level 6 * i. Every fifth file is grey, as some of CUB's are."""
    from PIL import Image

    folder = root / FOLDER
    lines, number = ["img_id,img_filename,y,split,place,place_filename"], 0
    for (y, place, split), count in COUNTS.items():
        for _ in range(count):
            species = ("001.Black_footed_Albatross", "014.Indigo_Bunting")[1 - y]
            name = f"{species}/Bird_{number:04d}_{number + 7}.jpg"
            (folder / species).mkdir(parents=True, exist_ok=True)
            pixels = np.full((*size(number), 3), colour(number), np.uint8)
            grey = number % 5 == 0
            Image.fromarray(pixels[..., 0] if grey else pixels).save(folder / name)
            lines.append(f"{number + 1},{name},{y},{split},{place},{PLACES[place]}")
            number += 1
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def load(data_dir, **changes):
    config = schema.default()
    config.data.update(
        {"name": "waterbirds", "data_dir": str(data_dir), "image_size": 16, **changes}
    )
    schema.check(config)
    return sources.load(config.data)


def as_arrays(split):
    return split.read(np.arange(len(split)))


def replace_line(folder, number, new):
    lines = (folder / "metadata.csv").read_text().splitlines()
    lines[number - 1] = new(lines[number - 1])
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_labels_are_group_dro_s(tmp_path):
    write(tmp_path)
    dataset = load(tmp_path)
    assert dataset.name == "waterbirds"
    assert dataset.coarse_names == ("landbird", "waterbird")
    assert dataset.fine_names == (
        "landbird on land",
        "landbird on water",
        "waterbird on land",
        "waterbird on water",
    )
    assert dataset.image_shape == (16, 16, 3)
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert dataset.std == (0.229, 0.224, 0.225)
    number = 0
    found = {}
    for code, name in enumerate(("train", "validation", "test")):
        batch = as_arrays(dataset.splits[name])
        for image, fine, coarse in zip(batch["image"], batch["fine"], batch["coarse"], strict=True):
            found[int(image[8, 8, 0])] = int(coarse), int(fine) - 2 * int(coarse), code
            assert np.ptp(image) <= 1
    for (y, place, split), count in COUNTS.items():
        for _ in range(count):
            assert found.pop(colour(number)) == (y, place, split)
            number += 1
    assert not found


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_groups_are_counted_without_an_image(tmp_path, limit):
    folder = write(tmp_path)
    dataset = load(tmp_path, memory_limit_gib=limit)
    for path in folder.rglob("*.jpg"):
        path.unlink()
    counts = group_counts(dataset)
    assert {name: count.tolist() for name, count in counts.items()} == {
        "train": [7, 2, 1, 4],
        "validation": [2, 2, 1, 1],
        "test": [3, 3, 2, 2],
    }
    part = dataset.splits["train"].subset(np.array([13, 0]))
    assert part.fine.tolist() == [3, 0]


def test_from_disk_is_in_memory_and_either_folder_may_be_given(tmp_path):
    folder = write(tmp_path)
    held, lazy = load(tmp_path), load(folder, memory_limit_gib=0.0)
    for name, split in held.splits.items():
        assert split.in_memory
        assert not lazy.splits[name].in_memory
        first, second = as_arrays(split), as_arrays(lazy.splits[name])
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


def test_the_splits_are_those_of_the_table_for_every_seed(tmp_path):
    write(tmp_path)
    first, second = (load(tmp_path, split_seed=seed) for seed in (1, 2))
    for name, split in first.splits.items():
        np.testing.assert_array_equal(split.images, second.splits[name].images)


def test_images_of_many_sizes_need_image_size(tmp_path):
    write(tmp_path)
    with pytest.raises(
        DataError, match=r"waterbirds: data\.image_size: expected the side .* got 0: .*line 3, is"
    ):
        load(tmp_path, image_size=0)
    write(tmp_path / "equal", size=lambda number: (12, 18))
    assert load(tmp_path / "equal", image_size=0).image_shape == (12, 18, 3)


def test_a_missing_table_says_what_is_expected(tmp_path):
    for data_dir in (tmp_path, ""):
        with pytest.raises(DatasetNotFound, match=rf"folder {FOLDER} .* metadata\.csv.*docs/data"):
            load(data_dir)


def cells(**changes):
    names = ("img_id", "img_filename", "y", "split", "place", "place_filename")

    def new(line):
        values = dict(zip(names, line.split(","), strict=True))
        return ",".join({**values, **changes}.values())

    return new


@pytest.mark.parametrize(
    ("number", "new", "message"),
    [
        (1, lambda line: line.replace("place,", "water,"), "line 1: expected one column 'place'"),
        (1, lambda line: line.replace(",y,", ",z,"), "line 1: expected one column 'y'"),
        (6, cells(y="2"), "line 6: y: expected one of 0, 1, got '2'"),
        (6, cells(place=""), "line 6: place: expected one of 0, 1, got ''"),
        (6, cells(split="3"), "line 6: split: expected one of 0, 1, 2, got '3'"),
        (6, cells(split="train"), "line 6: split: expected one of 0, 1, 2, got 'train'"),
        (6, cells(img_filename=""), "line 6: img_filename is empty"),
        (6, cells(img_filename="x.jpg"), "line 6: no file .*x.jpg"),
        (6, cells(img_filename="../x.jpg"), "line 6: img_filename: expected a path below"),
        (
            6,
            cells(img_filename="014.Indigo_Bunting/Bird_0000_7.jpg"),
            r"line 6: img_filename: '.*0000_7\.jpg' is listed before, in line 2",
        ),
        (6, lambda line: line + ",1", "line 6: expected 6 cells as in the header, got 7"),
        # The only waterbird on land of the training split.
        (11, cells(split="2"), r"line 11: fine class 'waterbird on land' .* none .* train split"),
    ],
)
def test_lines_that_cannot_be_used_are_named(tmp_path, number, new, message):
    folder = write(tmp_path)
    replace_line(folder, number, new)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(folder / "metadata.csv") in str(caught.value)


def test_tables_that_cannot_be_used(tmp_path):
    folder = write(tmp_path)
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines()
    for kept, message in (
        (lines[:1], "expected a line for each image below the header, got none"),
        (lines[:8] + lines[-4:], "expected lines of fine class 'landbird on water', got none"),
        (lines[:15], "split: expected rows for train and test, got none for test"),
    ):
        table.write_text("\n".join(kept) + "\n")
        with pytest.raises(DataError, match=rf"metadata\.csv: {message}"):
            load(tmp_path)


def test_a_broken_image_is_named_with_its_line(tmp_path):
    folder = write(tmp_path)
    (folder / "014.Indigo_Bunting" / "Bird_0003_10.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"waterbirds: 014.*Bird_0003_10\.jpg, .*line 5: not an im"):
        load(tmp_path)
