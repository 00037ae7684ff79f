"""ISIC: a folder with metadata.csv in the documented layout, written here."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import DataError, DatasetNotFound, group_counts, sources

# (benign_malignant, patch) -> images.
COUNTS = {("benign", 0): 20, ("benign", 1): 10, ("malignant", 0): 9, ("malignant", 1): 1}
SPLITS = ("train", "train", "train", "validation", "test")


def write(root, *, split=True, column="benign_malignant", grey=()):
    """Plain images; number i has level 6 * i. Of five in turn, three are for training."""
    from PIL import Image

    (root / "images").mkdir(parents=True)
    header = ["isic_id", "filename", column, "patch", *(["split"] if split else [])]
    lines, number = [",".join(header)], 0
    for (label, patch), count in COUNTS.items():
        for _ in range(count):
            name = f"images/ISIC_{number:07d}.png"
            pixels = np.full((20 + number % 2, 24, 3), 6 * number, np.uint8)
            Image.fromarray(pixels[..., 0] if number in grey else pixels).save(root / name)
            value = str(int(label == "malignant")) if column == "malignant" else label
            cells = [f"ISIC_{number:07d}", name, value, str(patch)]
            lines.append(",".join([*cells, *([SPLITS[number % 5]] if split else [])]))
            number += 1
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def load(data_dir, **changes):
    config = schema.default()
    config.data.update({"name": "isic", "data_dir": str(data_dir), "image_size": 16, **changes})
    schema.check(config)
    return sources.load(config.data)


def as_arrays(split):
    return split.read(np.arange(len(split)))


def labels_of(dataset):
    """Number of an image -> (split, coarse, fine)."""
    return {
        int(image[8, 8, 0]) // 6: (name, int(coarse), int(fine))
        for name, split in dataset.splits.items()
        for image, coarse, fine in zip(*(as_arrays(split)[k] for k in KEYS), strict=True)
    }


KEYS = ("image", "coarse", "fine")
# Benign without and with a patch, malignant.
GROUP = [0] * 20 + [1] * 10 + [2] * 10


@pytest.mark.parametrize("column", ["benign_malignant", "malignant"])
def test_groups_of_the_table(tmp_path, column):
    dataset = load(write(tmp_path / "isic", column=column, grey=(0, 30)))
    assert dataset.name == "isic"
    assert dataset.coarse_names == ("benign", "malignant")
    assert dataset.fine_names == ("benign, no patch", "benign, patch", "malignant")
    assert dataset.image_shape == (16, 16, 3)
    assert labels_of(dataset) == {
        number: (SPLITS[number % 5], group // 2, group) for number, group in enumerate(GROUP)
    }
    pixels = dataset.splits["train"].images / 255.0
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_without_a_split_column_a_fifth_of_each_group_is_the_test_for_every_seed(tmp_path):
    root = write(tmp_path / "isic", split=False)
    first, second = (load(root, split_seed=seed) for seed in (1, 2))
    assert group_counts(first)["test"].tolist() == [4, 2, 2]
    assert sum(group_counts(first).values()).tolist() == [20, 10, 10]
    assert len(first.splits["validation"]) == 3
    np.testing.assert_array_equal(first.splits["test"].images, second.splits["test"].images)
    assert {number: label[2] for number, label in labels_of(first).items()} == dict(
        enumerate(GROUP)
    )


def test_from_disk_is_in_memory(tmp_path):
    root = write(tmp_path / "isic")
    held, lazy = load(root), load(root, memory_limit_gib=0.0)
    for name, split in held.splits.items():
        assert not lazy.splits[name].in_memory
        first, second = as_arrays(split), as_arrays(lazy.splits[name])
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
    expected = group_counts(held)
    for name, counts in group_counts(lazy).items():
        np.testing.assert_array_equal(counts, expected[name])
    assert expected["train"].tolist() == [12, 6, 6]


def test_images_of_many_sizes_need_image_size(tmp_path):
    with pytest.raises(DataError, match=r"isic: data\.image_size: expected the side .*line 3, is"):
        load(write(tmp_path / "isic"), image_size=0)


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_table_says_what_is_expected(tmp_path, there):
    with pytest.raises(DatasetNotFound, match=r"metadata\.csv, with the columns filename, benign_"):
        load(tmp_path if there else "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("filename,benign", "file,benign", "line 1: expected one column 'filename'"),
        (",patch,", ",spot,", "line 1: expected one column 'patch'"),
        ("benign_malignant", "diagnosis", "line 1: expected one .* malignant, got neither"),
        (
            "isic_id,",
            "malignant,",
            "line 1: expected one .*, got benign_malignant and malignant",
        ),
        (
            "02.png,benign,0",
            "02.png,indeterminate,0",
            "line 4: benign_malignant: expected one of benign, malignant, got 'indeterminate'",
        ),
        ("02.png,benign,0", "02.png,benign,", "line 4: patch: expected one of 0, 1, got ''"),
        ("02.png,benign,0,train", "02.png,benign,0,val", "line 4: split: expected one of train, v"),
        ("images/ISIC_0000002.png", "images/ISIC_2.png", r"line 4: no file .*ISIC_2\.png"),
        ("images/ISIC_0000002.png", "", "line 4: filename is empty"),
        (
            "images/ISIC_0000002.png",
            "images/ISIC_0000001.png",
            r"line 4: filename: 'images/ISIC_0000001\.png' is listed before, in line 3",
        ),
    ],
)
def test_lines_that_cannot_be_used_are_named(tmp_path, old, new, message):
    root = write(tmp_path / "isic")
    text = (root / "metadata.csv").read_text()
    assert text.count(old) == 1
    (root / "metadata.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=rf"metadata\.csv, {message}"):
        load(root)


def test_tables_that_cannot_be_used(tmp_path):
    root = write(tmp_path / "isic")
    lines = (root / "metadata.csv").read_text().splitlines()
    for kept, message in (
        (lines[:1], "expected a line for each image below the header, got none"),
        (lines[:21], "expected lines of fine class 'benign, patch', got none"),
    ):
        (root / "metadata.csv").write_text("\n".join(kept) + "\n")
        with pytest.raises(DataError, match=rf"metadata\.csv: {message}"):
            load(root)
