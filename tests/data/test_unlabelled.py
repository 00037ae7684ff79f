"""Images without labels: found, counted, and kept out of what needs labels."""

import numpy as np
import pytest
from own_images import as_arrays, every_image, load, pixels, save, write

from thanos_jax.data.splits import DataError
from thanos_jax.data.unlabelled import NO_LABEL, with_unlabelled
from thanos_jax.errors import ConfigError


def add(root, *labels, split=None):
    """Writes an image for each row of labels and adds it to the table."""
    with open(root / "labels.csv", "a") as file:
        for number, label in enumerate(labels):
            save(root / f"new{number}.png", pixels(500 + number))
            file.write(f"new{number}.png,{label}{',' + split if split else ''}\n")


def found(dataset):
    return {image.tobytes() for image in as_arrays(dataset.unlabelled)["image"]}


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_empty_labels_and_marks(tmp_path, limit):
    before = every_image(load(write(tmp_path)))
    add(tmp_path, ",", "?,?", " , ")
    dataset = load(tmp_path, unlabelled="?", memory_limit_gib=limit)
    assert every_image(dataset) == before
    assert found(dataset) == {pixels(500 + number).tobytes() for number in range(3)}
    assert dataset.unlabelled.names.tolist() == ["new0.png", "new1.png", "new2.png"]
    assert (dataset.unlabelled_dropped, dataset.unlabelled.in_memory) == (0, limit > 0)
    dropped = load(tmp_path, unlabelled="?", unlabelled_use="drop")
    assert (dropped.unlabelled, dropped.unlabelled_dropped) == (None, 3)


def test_those_of_validation_and_test_are_left_out(tmp_path):
    write(tmp_path, split=lambda i: "test" if i < 3 else "train")
    add(tmp_path, ",", split="train")
    with open(tmp_path / "labels.csv", "a") as file:
        for place, split in enumerate(("", "test", "validation")):
            save(tmp_path / f"more{place}.png", pixels(600 + place))
            file.write(f"more{place}.png,,,{split}\n")
    dataset = load(tmp_path)
    assert found(dataset) == {pixels(500).tobytes(), pixels(600).tobytes()}
    assert dataset.unlabelled_dropped == 2


def test_a_class_folder_of_unlabelled_images(tmp_path):
    for place, name in enumerate(("cat", "dog", "unknown")):
        for number in range(5):
            save(tmp_path / name / f"{number}.png", pixels(10 * place + number))
    assert load(tmp_path).fine_names == ("cat", "dog", "unknown")
    dataset = load(tmp_path, unlabelled="unknown")
    assert dataset.fine_names == ("cat", "dog")
    assert found(dataset) == {pixels(20 + number).tobytes() for number in range(5)}


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("pet,?", {"unlabelled": "?"}, r"line 32: expected data\.unlabelled='\?' in all columns"),
        ("pet,", {}, r"line 32: fine is empty"),
        (",cat", {"unlabelled": "?"}, r"line 32: coarse is empty"),
        (",", {"background": "photographs"}, r"data\.background: expected 'none' for folder"),
    ],
)
def test_what_is_neither_labelled_nor_unlabelled(tmp_path, labels, options, message):
    write(tmp_path, channels=1)
    add(tmp_path, labels)
    save(tmp_path / "new0.png", pixels(1, channels=1))
    with pytest.raises(DataError, match=message):
        load(tmp_path, **options)


def test_sets_without_a_label_or_that_cannot_have_any(tmp_path):
    (tmp_path / "labels.csv").write_text("filename,label\na.png,\n")
    save(tmp_path / "a.png", pixels(0))
    with pytest.raises(DataError, match=r"labels\.csv: expected images with labels, got 1 without"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"data\.unlabelled: expected '' for digits, got '\?'"):
        load(tmp_path, name="digits", unlabelled="?")
    with pytest.raises(ConfigError, match=r"data\.unlabelled_use: expected one of train, drop"):
        load(tmp_path, unlabelled_use="keep")


def test_one_split_of_both(tmp_path):
    add(write(tmp_path), ",", ",")
    dataset = load(tmp_path)
    train = dataset.splits["train"]
    both = with_unlabelled(train, dataset.unlabelled)
    assert len(both) == len(train) + 2
    numbers = np.array([len(train), 0, len(train) + 1, 5, 0])
    batch = both.read(numbers)
    np.testing.assert_array_equal(batch["image"], both.images[numbers])
    np.testing.assert_array_equal(batch["image"][[1, 3]], train.images[[0, 5]])
    np.testing.assert_array_equal(batch["image"][[0, 2]], as_arrays(dataset.unlabelled)["image"])
    for name in ("fine", "coarse"):
        expected = as_arrays(train)[name][[0, 5]]
        np.testing.assert_array_equal(batch[name][[1, 3]], expected)
        np.testing.assert_array_equal(batch[name][[0, 2]], NO_LABEL)
        np.testing.assert_array_equal(getattr(both, name)[numbers], batch[name])
    assert both.in_memory
    some = both.subset(numbers)
    np.testing.assert_array_equal(some.read(np.arange(5))["image"], batch["image"])
    assert some.names.tolist() == [
        "new0.png", train.names[0], "new1.png", train.names[5], train.names[0],
    ]  # fmt: skip
    assert both.read(np.zeros(0, np.int64))["image"].shape == (0, 6, 5, 3)


def test_a_mark_that_is_not_said_is_a_class(tmp_path):
    add(write(tmp_path), "?,?", "?,?")
    assert "?" in load(tmp_path).coarse_names
