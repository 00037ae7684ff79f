"""A user's own images: PNG, JPEG and other files with a labels.csv, written here."""

import os

import numpy as np
import pytest
from own_images import CLASSES, as_arrays, every_image, load, pixels, save, write

from thanos_jax import config as schema
from thanos_jax.data import DatasetNotFound, sources
from thanos_jax.data.dataset import moments
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import ArraySplit, DataError
from thanos_jax.errors import ConfigError


def assert_equal_splits(first, second):
    first, second = as_arrays(first), as_arrays(second)
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


def test_names_of_data_sets_are_one_list():
    others = ("tfds", "tiny_imagenet", "folder", "waterbirds", "isic")
    assert schema.DATASETS == sources.NAMES == (*SPECS, *others)
    config = schema.default()
    config.data.name = "folders"
    with pytest.raises(ConfigError, match=r"data\.name: expected one of .*folder.*'folders'"):
        schema.check(config)


def test_every_image_is_in_one_split_with_its_names(tmp_path):
    dataset = load(write(tmp_path))
    assert dataset.name == "folder"
    assert dataset.coarse_names == ("farm", "pet")
    assert dataset.fine_names == ("cat", "cow", "dog")
    assert dataset.image_shape == (6, 5, 3)
    assert every_image(dataset) == {
        pixels(100 * place + i).tobytes(): pair
        for place, pair in enumerate(CLASSES)
        for i in range(10)
    }


def test_without_a_split_column_a_fifth_of_each_class_is_the_test_for_every_seed(tmp_path):
    write(tmp_path)
    first, second = load(tmp_path, split_seed=1), load(tmp_path, split_seed=2)
    assert {name: len(split) for name, split in first.splits.items()} == {
        "train": 22,
        "validation": 2,
        "test": 6,
    }
    np.testing.assert_array_equal(np.bincount(first.splits["test"].fine), [2, 2, 2])
    assert_equal_splits(first.splits["test"], second.splits["test"])
    assert_equal_splits(load(tmp_path, split_seed=1).splits["train"], first.splits["train"])
    validation = [dataset.splits["validation"].images for dataset in (first, second)]
    assert (validation[0] != validation[1]).any()


def test_small_classes_have_a_test_image(tmp_path):
    # A fifth of two is none.
    root = write(tmp_path)
    extra = ["rare/1.png,farm,goat", "rare/2.png,farm,goat"]
    for number, line in enumerate(extra):
        save(root / line.split(",")[0], pixels(1000 + number))
    with open(root / "labels.csv", "a") as file:
        file.write("\n".join(extra) + "\n")
    dataset = load(root)
    assert dataset.fine_names == ("cat", "cow", "dog", "goat")
    np.testing.assert_array_equal(np.bincount(dataset.splits["test"].fine), [2, 2, 2, 1])


def split_by_number(i):
    return "test" if i == 0 else "validation" if i == 3 else "train"


def test_the_split_column_decides(tmp_path):
    dataset = load(write(tmp_path, split=split_by_number))
    expected = {"test": [0], "validation": [3], "train": [1, 2, 4, 5, 6, 7, 8, 9]}
    for name, numbers in expected.items():
        images = [pixels(100 * place + i) for place in range(3) for i in numbers]
        np.testing.assert_array_equal(dataset.splits[name].images, np.stack(images))


def test_validation_is_held_out_where_no_row_is_for_it(tmp_path):
    dataset = load(write(tmp_path, split=lambda i: "test" if i < 4 else "train"))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 16, "validation": 2, "test": 12}


def test_a_fine_name_below_two_coarse_names_is_two_classes(tmp_path):
    write(tmp_path)
    text = (tmp_path / "labels.csv").read_text().replace("farm,cow", "farm,cat")
    (tmp_path / "labels.csv").write_text(text)
    dataset = load(tmp_path)
    assert dataset.fine_names == ("dog", "farm / cat", "pet / cat")
    for image, (coarse, fine) in every_image(dataset).items():
        number = next(
            place
            for place in range(3)
            if image in {pixels(100 * place + i).tobytes() for i in range(10)}
        )
        assert (coarse, fine) == [("pet", "pet / cat"), ("pet", "dog"), ("farm", "farm / cat")][
            number
        ]


def test_moments_are_those_of_the_training_images(tmp_path):
    dataset = load(write(tmp_path))
    values = dataset.splits["train"].images / 255.0
    np.testing.assert_allclose(dataset.mean, values.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, values.std(axis=(0, 1, 2)), rtol=1e-12)


def test_moments_of_a_seeded_sample_and_of_a_constant_channel():
    images = np.stack([pixels(i) for i in range(40)])
    images[..., 1] = 51
    split = ArraySplit(images, np.zeros(40, int), np.zeros(40, int))
    mean, std = moments(split, seed=3)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    assert mean[1] == pytest.approx(0.2)
    assert std[1] == 1.0
    first, again = (moments(split, seed=3, limit=5) for _ in range(2))
    assert first == again != moments(split, seed=4, limit=5)
    assert first == moments(split, seed=3, limit=5, chunk=2)
    possible = {round(float(image[..., 0].sum()), 6) for image in images}
    assert round(moments(split, seed=3, limit=1)[0][0] * 255 * 30, 6) in possible


@pytest.mark.parametrize("image_size", [0, 4])
def test_streaming_is_memory(tmp_path, image_size):
    write(tmp_path)
    held = load(tmp_path, image_size=image_size)
    streamed = load(tmp_path, image_size=image_size, memory_limit_gib=0.0)
    assert held[2:] == streamed[2:]
    for name, split in held.splits.items():
        assert split.in_memory
        assert not streamed.splits[name].in_memory
        assert_equal_splits(split, streamed.splits[name])


def test_memory_limit_counts_the_bytes_of_all_images(tmp_path):
    write(tmp_path)
    needed = 30 * 6 * 5 * 3 / 2**30
    for limit, in_memory in ((needed * 1.001, True), (needed * 0.999, False)):
        dataset = load(tmp_path, memory_limit_gib=limit)
        assert all(split.in_memory == in_memory for split in dataset.splits.values())


# Formats of images


def test_grey_images_stay_grey_and_one_in_colour_makes_all_rgb(tmp_path):
    dataset = load(write(tmp_path, channels=1))
    assert dataset.image_shape == (6, 5, 1)
    assert pixels(100, channels=1).tobytes() in every_image(dataset)
    save(tmp_path / "cat" / "0.png", pixels(0))
    dataset = load(tmp_path)
    assert dataset.image_shape == (6, 5, 3)
    assert len(dataset.mean) == len(dataset.std) == 3
    assert pixels(100, channels=1).repeat(3, -1).tobytes() in every_image(dataset)


def in_mode(mode):
    from PIL import Image

    image = Image.fromarray(pixels(0))
    return {
        "RGBA": lambda: image.convert("RGBA"),
        "CMYK": lambda: image.convert("CMYK"),
        "LA": lambda: image.convert("LA"),
        "1": lambda: image.convert("1"),
        "P": lambda: image.quantize(8),
    }[mode]()


@pytest.mark.parametrize(
    ("mode", "file"),
    [("RGBA", "a.png"), ("CMYK", "a.tif"), ("LA", "a.png"), ("1", "a.bmp"), ("P", "a.gif")],
)
def test_modes_become_rgb(tmp_path, mode, file):
    write(tmp_path)
    image = in_mode(mode)
    image.save(tmp_path / file)
    text = (tmp_path / "labels.csv").read_text().replace("cat/0.png", file)
    (tmp_path / "labels.csv").write_text(text)
    assert np.asarray(image.convert("RGB")).tobytes() in every_image(load(tmp_path))


def test_palette_with_transparency_is_read_without_a_warning(tmp_path):
    write(tmp_path)
    image = in_mode("P")
    image.save(tmp_path / "cat" / "0.png", transparency=bytes([0, 128, 255]))
    colours, entries = np.asarray(image.convert("RGB")).astype(float), np.asarray(image)
    opaque = np.array([0, 128, 255, *[255] * 253])[entries][..., None] / 255
    expected = opaque * colours + (1 - opaque) * 255
    found = [np.frombuffer(one, np.uint8).reshape(6, 5, 3) for one in every_image(load(tmp_path))]
    assert min(np.abs(expected - one).max() for one in found) <= 1


def test_images_are_turned_upright(tmp_path):
    from PIL import Image

    write(tmp_path)
    lying = pixels(0, height=5, width=6)
    exif = Image.Exif()
    exif[0x0112] = 6  # its first row is the right side of the picture
    save(tmp_path / "cat" / "0.png", lying, exif=exif)
    dataset = load(tmp_path)
    assert dataset.image_shape == (6, 5, 3)
    assert np.rot90(lying, -1).tobytes() in every_image(dataset)


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    write(tmp_path)
    save(tmp_path / "dog" / "3.png", pixels(0, height=9, width=12))
    with pytest.raises(
        DataError,
        match=r"data\.image_size: .* got 0: dog/3\.png, .*labels\.csv, line 15, is 12 x 9 pixels,"
        r" cat/0\.png, .*labels\.csv, line 2, 5 x 6",
    ):
        load(tmp_path)
    dataset = load(tmp_path, image_size=4)
    assert dataset.image_shape == (4, 4, 3)
    assert len(every_image(dataset)) == 30


def test_more_than_eight_bits_are_refused(tmp_path):
    from PIL import Image

    write(tmp_path)
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(tmp_path / "cow" / "9.png")
    with pytest.raises(DataError, match=r"cow/9\.png, .*line 31: pixels of mode I;16, expected 8"):
        load(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


def overwrite(path):
    path.write_text("no image")


def test_files_that_are_no_images_are_named(tmp_path):
    write(tmp_path)
    overwrite(tmp_path / "dog" / "2.png")
    with pytest.raises(
        DataError, match=r"dog/2\.png, .*labels\.csv, line 14: not an image in a format that Pillow"
    ):
        load(tmp_path, image_size=4)


@pytest.mark.parametrize("stream", [False, True])
def test_truncated_images_are_named(tmp_path, stream):
    write(tmp_path, split=split_by_number)
    cut(tmp_path / "dog" / "0.png")
    where = r"folder, split 'test', record 1 \(dog/0\.png, .*labels\.csv, line 12\): .+"
    if not stream:
        with pytest.raises(DataError, match=where):
            load(tmp_path, image_size=4)
        return
    test = load(tmp_path, image_size=4, memory_limit_gib=0.0).splits["test"]
    with pytest.raises(DataError, match=where):
        as_arrays(test)


@pytest.mark.parametrize("image_size", [0, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_damaged_images_can_be_left_out(tmp_path, stream, image_size, capsys):
    write(tmp_path, split=split_by_number)
    limit = 0.0 if stream else 4.0
    options = {"image_size": image_size, "on_damaged": "skip", "memory_limit_gib": limit}
    whole = load(tmp_path, **options)
    before = {name: as_arrays(split) for name, split in whole.splits.items()}
    assert whole.skipped == ()
    assert capsys.readouterr().err == ""
    cut(tmp_path / "dog" / "0.png")
    overwrite(tmp_path / "cat" / "4.png")
    overwrite(tmp_path / "cat" / "5.png")
    gone = {"train": [2, 3], "validation": [], "test": [1]}
    dataset = load(tmp_path, **options)
    assert dataset.skipped == ("train 2", "train 3", "test 1")
    said = capsys.readouterr().err
    assert "folder, split 'train': 2 of 24 examples cannot be read and are left out" in said
    assert "folder, split 'test': 1 of 3 examples" in said
    for file in ("dog/0.png", "cat/4.png", "cat/5.png"):
        assert said.count(f"({file}, ") == 1
    for name, split in dataset.splits.items():
        assert split.in_memory is not stream
        for key, found in as_arrays(split).items():
            np.testing.assert_array_equal(found, np.delete(before[name][key], gone[name], axis=0))


def test_what_is_not_damage_is_not_left_out(tmp_path):
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"on_damaged: expected one of stop, skip, got"):
        load(tmp_path, on_damaged="ignore")
    save(tmp_path / "cow" / "9.png", np.zeros((6, 5, 1), np.uint16))
    with pytest.raises(DataError, match=r"cow/9\.png, .*pixels of mode I;16, expected 8 bits"):
        load(tmp_path, on_damaged="skip")
    for path in tmp_path.rglob("*.png"):
        overwrite(path)
    with pytest.raises(DataError, match=r"no image can be read; the first: .*cat/0\.png"):
        load(tmp_path, on_damaged="skip")


def test_most_of_a_split_is_not_left_out(tmp_path):
    write(tmp_path, split=split_by_number)
    for fine in ("cat", "dog"):
        overwrite(tmp_path / fine / "0.png")
    with pytest.raises(DataError, match=r"(?s)'test': 2 of 3 examples .*more than the half.*cat/0"):
        load(tmp_path, on_damaged="skip")


# The table


def test_without_a_table_the_message_has_its_columns(tmp_path):
    for folder in ("", str(tmp_path)):
        with pytest.raises(
            DatasetNotFound,
            match=rf"data\.data_dir: .*labels\.csv, with the columns filename, .* got '{folder}'",
        ):
            load(folder)


def test_tables_as_spreadsheets_write_them(tmp_path):
    write(tmp_path)
    text = (tmp_path / "labels.csv").read_text()
    expected = every_image(load(tmp_path))
    text = text.replace(",", " , ").replace("\n", "\r\n")
    quoted = text.replace("dog/2.png ", '"./dog/2.png"').replace("coarse ", '"coarse"')
    assert quoted.count('"') == 2 * 2
    (tmp_path / "labels.csv").write_bytes(quoted.encode("utf-8-sig") + b"\r\n")
    assert every_image(load(tmp_path)) == expected
    # Other columns and another order.
    rows = [line.split(" , ") for line in text.splitlines()]
    mixed = "\n".join(",".join((row[2], "note", row[0], row[1])) for row in rows)
    (tmp_path / "labels.csv").write_text(mixed)
    assert every_image(load(tmp_path)) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "coarse,fine",
            "coarse,name",
            r"line 1: expected one column 'fine', got the header \['file",
        ),
        ("coarse,fine", "coarse,fine,fine", r"line 1: expected one column 'fine'"),
        ("dog/2.png,pet,dog", "dog/2.png,,dog", r"line 14: coarse is empty"),
        ("dog/2.png,pet,dog", "dog/2.png,pet, ", r"line 14: fine is empty"),
        ("dog/2.png,pet,dog", ",pet,dog", r"line 14: filename is empty"),
        ("dog/2.png,pet,dog", "dog/2.png,pet", r"line 14: expected 3 cells .*, got 2"),
        ("dog/2.png", "dog/x.png", r"line 14: no file .*dog/x\.png"),
        ("dog/2.png", "dog", r"line 14: no file .*dog"),
        (
            "dog/2.png",
            "cat/./2.png",
            r"line 14: filename: 'cat/2\.png' is listed before, in line 4",
        ),
        ("dog/2.png", "../2.png", r"line 14: filename: .*without '\.\.', got '\.\./2\.png'"),
        ("dog/2.png", "cat/../../2.png", r"line 14: filename: expected a path below"),
        ("dog/2.png", "/etc/hostname", r"line 14: filename: .* got '/etc/hostname'"),
        ("dog/2.png", "C:\\2.png", r"line 14: filename: expected a path below"),
        ("dog/2.png", "..\\2.png", r"line 14: filename: expected a path below"),
        ("dog/2.png", '"dog/2.png', r"line 3[12]: not CSV"),
        (
            "dog/2.png,pet,dog",
            "dog/2.png,pet,wolf",
            r"line 14: the only image of fine class 'wolf'",
        ),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, old, new, message):
    write(tmp_path)
    text = (tmp_path / "labels.csv").read_text()
    assert text.count(old) == 1
    (tmp_path / "labels.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=rf"{tmp_path}/labels\.csv, {message}"):
        load(tmp_path)


def test_tables_that_cannot_be_used(tmp_path):
    (tmp_path / "labels.csv").write_text("filename,coarse,fine\n")
    with pytest.raises(DataError, match=r"labels\.csv: expected a line for each image .* got none"):
        load(tmp_path)
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(DataError, match=r"line 1: expected one column 'filename', got the header"):
        load(tmp_path)
    (tmp_path / "labels.csv").write_bytes("filename,coarse,fine\nä.png,a,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels\.csv: expected text in UTF-8, got"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda i: "val" if i == 1 else "train", r"line 3: split: expected one of train, .*'val'"),
        (lambda i: "" if i == 1 else "train", r"line 3: split: expected one of .*, got ''"),
        (
            lambda i: "train",
            r"labels\.csv: split: expected rows for train and test, got none for te",
        ),
        (lambda i: "test", r"labels\.csv: split: .*, got none for train"),
    ],
)
def test_splits_that_cannot_be_used(tmp_path, split, message):
    write(tmp_path, split=split)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("there", "missing"), [("validation", "train"), ("test", "train"), ("train", "test")]
)
@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_a_fine_class_missing_from_training_or_test_is_named(tmp_path, there, missing, limit):
    write(tmp_path, split=split_by_number)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    lines = [
        ",".join([*line.split(",")[:3], there]) if line.startswith("dog") else line
        for line in lines
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    held_out = 10 if there == "validation" else 0
    with pytest.raises(
        DataError,
        match=rf"line 12: fine class 'dog' has 10 images, none of them in the {missing} split"
        rf" \({held_out} in validation\)",
    ):
        load(tmp_path, memory_limit_gib=limit)


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    write(tmp_path / "images")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load(os.path.join("~", "images")).splits["test"]) == 6
