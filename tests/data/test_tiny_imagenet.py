"""Tiny ImageNet in the layout it is distributed in, with a few classes and images."""

import io
import shutil

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import DatasetNotFound, sources, tiny_imagenet
from thanos_jax.data.splits import DataError

# Not in sorted order, as in the real wnids.txt.
WNIDS = ("n02124075", "n07749582", "n01443537", "n02123045")
NAMES = {
    "n01443537": "goldfish, Carassius auratus",
    "n02123045": "tabby, tabby cat",
    "n02124075": "Egyptian cat",
    "n07749582": "lemon",
}


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)


def jpeg(number, *, grey=False, side=64):
    from PIL import Image

    image = Image.fromarray(pixels(number)).resize((side, side))
    stream = io.BytesIO()
    (image.convert("L") if grey else image).save(stream, format="JPEG")
    return stream.getvalue()


def write(root, *, training=5, labelled=2):
    """The folder tiny-imagenet-200; every class has one grey training image."""
    (root / "val" / "images").mkdir(parents=True)
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_bytes(b"unlabelled, not read")
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    words = {**NAMES, "n00001740": "entity"}
    (root / "words.txt").write_text("".join(f"{w}\t{n}\n" for w, n in sorted(words.items())))
    annotations = []
    for place, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid
        (folder / "images").mkdir(parents=True)
        (folder / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        for i in range(training):
            content = jpeg(100 * place + i, grey=i == 1)
            (folder / "images" / f"{wnid}_{i}.JPEG").write_bytes(content)
        for i in range(labelled):
            # Classes take turns.
            number = i * len(WNIDS) + place
            (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(1000 + number))
            annotations.append((number, f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"))
    text = "".join(line for _, line in sorted(annotations))
    (root / "val" / "val_annotations.txt").write_text(text)
    return root


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200").parent


@pytest.fixture
def changed(stored, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(stored / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200")


def load(data_dir, **changes):
    config = schema.default()
    config.data.update({"name": "tiny_imagenet", "data_dir": str(data_dir), **changes})
    schema.check(config)
    return sources.load(config.data)


def as_arrays(split):
    return split.read(np.arange(len(split)))


def decoded(content):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_classes_are_wnids_in_order_and_the_package_s_superclasses(stored):
    dataset = load(stored)
    assert dataset.name == "tiny_imagenet"
    assert dataset.fine_names == ("goldfish", "tabby", "Egyptian cat", "lemon")
    assert dataset.coarse_names == ("domestic cat", "fish and amphibian", "fruit")
    assert dataset.image_shape == (64, 64, 3)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 8,
    }
    for split in dataset.splits.values():
        batch = as_arrays(split)
        np.testing.assert_array_equal(batch["coarse"], np.array([1, 0, 0, 2])[batch["fine"]])


def test_every_image_is_there_once_with_its_label(stored):
    dataset = load(stored)
    order = [sorted(WNIDS).index(wnid) for wnid in WNIDS]
    expected = {
        decoded(jpeg(100 * place + i, grey=i == 1)).tobytes(): order[place]
        for place in range(4)
        for i in range(5)
    }
    found = {}
    for name in ("train", "validation"):
        batch = as_arrays(dataset.splits[name])
        found.update(
            zip((x.tobytes() for x in batch["image"]), batch["fine"].tolist(), strict=True)
        )
    assert found == expected
    assert len(expected) == 20


def test_distributed_validation_images_are_the_test_split(stored):
    batch = as_arrays(load(stored).splits["test"])
    for number, (image, fine) in enumerate(zip(batch["image"], batch["fine"], strict=True)):
        np.testing.assert_array_equal(image, decoded(jpeg(1000 + number)))
        assert fine == sorted(WNIDS).index(WNIDS[number % 4])


def test_moments_are_those_of_the_training_images(stored):
    dataset = load(stored)
    values = as_arrays(dataset.splits["train"])["image"] / 255.0
    np.testing.assert_allclose(dataset.mean, values.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, values.std(axis=(0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("image_size", [0, 32])
def test_streaming_is_memory(stored, image_size):
    held = load(stored, image_size=image_size)
    streamed = load(stored, image_size=image_size, memory_limit_gib=0.0)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    assert held.image_shape == streamed.image_shape == ((image_size or 64,) * 2 + (3,))
    for name, split in held.splits.items():
        assert split.in_memory
        assert not streamed.splits[name].in_memory
        first, second = as_arrays(split), as_arrays(streamed.splits[name])
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


def test_data_dir_may_be_the_folder_itself(stored):
    inner, outer = load(stored / "tiny-imagenet-200"), load(stored)
    np.testing.assert_array_equal(inner.splits["train"].images, outer.splits["train"].images)


def test_one_name_of_several_wnids_is_told_by_them(changed):
    text = (changed / "words.txt").read_text().replace("Egyptian cat", "tabby, Egyptian cat")
    (changed / "words.txt").write_text(text)
    assert load(changed).fine_names == (
        "goldfish",
        "tabby (n02123045)",
        "tabby (n02124075)",
        "lemon",
    )


# Superclasses


def test_the_package_s_table():
    table = tiny_imagenet.superclasses()
    assert len(table) == 200
    assert set(WNIDS) <= set(table)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in table)
    sizes = np.unique(list(table.values()), return_counts=True)[1]
    assert len(sizes) == 61
    assert sizes.min() == 2
    assert sizes.max() == 8
    for wnid, coarse in (
        ("n02085620", "dog"),  # Chihuahua
        ("n04146614", "van and bus"),  # school bus
        ("n07873807", "prepared food"),  # pizza
        ("n12267677", "fruit"),  # acorn
    ):
        assert table[wnid] == coarse


def test_a_table_of_one_s_own(stored, tmp_path):
    path = tmp_path / "map.csv"
    rows = ["alive,n02124075,a", "alive,n02123045,", "food,n07749582,", "alive,n01443537,b"]
    path.write_text("\n".join(["coarse,wnid,note", *rows, "unused,n00000001,"]))
    dataset = load(stored, coarse_map=str(path))
    assert dataset.coarse_names == ("alive", "food")
    batch = as_arrays(dataset.splits["test"])
    np.testing.assert_array_equal(batch["coarse"], batch["fine"] == 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wnid,coarse\nn02124075,cat\n", r"none for n01443537 \(goldfish\) in .*map\.csv"),
        ("wnid,superclass\n", r"map\.csv, line 1: expected one column 'coarse', got the header"),
        ("wnid,coarse\nn1,a\nn2,\n", r"map\.csv, line 3: expected a wnid and a coarse name"),
        (
            "wnid,coarse\nn1,a\nn1,b\n",
            r"map\.csv, line 3: wnid: expected one line each, got 'n1' again",
        ),
        ("wnid,coarse\nn1,a,b\n", r"map\.csv, line 2: expected 2 cells as in the header, got 3"),
        (None, r"data\.coarse_map: expected a CSV .*got '.*map\.csv', which is not a file"),
    ],
)
def test_tables_that_cannot_be_used(stored, tmp_path, text, message):
    if text is not None:
        (tmp_path / "map.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load(stored, coarse_map=str(tmp_path / "map.csv"))


def test_a_wnid_outside_the_package_s_table_is_named(changed):
    (changed / "train" / "n02124075").rename(changed / "train" / "n02480855")
    for file in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        text = (changed / file).read_text().replace("n02124075", "n02480855")
        (changed / file).write_text(text)
    with pytest.raises(
        DataError, match=r"none for n02480855 \(Egyptian cat\) in the package's own"
    ):
        load(changed)


def test_coarse_map_is_for_tiny_imagenet_only():
    config = schema.default()
    config.data.coarse_map = "map.csv"
    with pytest.raises(
        DataError, match=r"data\.coarse_map: expected '' for digits, got 'map\.csv'"
    ):
        sources.load(config.data)


# What is missing


@pytest.mark.parametrize("data_dir", ["", "nowhere"])
def test_missing_data_say_what_to_do(data_dir):
    with pytest.raises(DatasetNotFound, match=rf"wnids\.txt .*docs/data\.md\), got '{data_dir}'"):
        load(data_dir)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("words.txt", r"no file .*words\.txt"),
        ("val/val_annotations.txt", r"no file .*val_annotations\.txt"),
        ("val/images/val_3.JPEG", r"val_annotations\.txt, line 4: val_3\.JPEG is not in"),
        ("train/n02124075", r"only in wnids\.txt: \['n02124075'\], only in train: \[\]"),
        ("train/n02124075/images", r"expected images \*\.JPEG in .*n02124075.images, got none"),
    ],
)
def test_missing_parts_are_named(changed, removed, message):
    remove(changed / removed)
    with pytest.raises(DataError, match=message):
        load(changed)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("wnids.txt", "n02124075\n", "", r"only in train: \['n02124075'\], wnids: 3"),
        ("wnids.txt", "n02124075\n", "n02123045\nn02124075\n", r"once each.*wnids: 5"),
        ("words.txt", "n02124075\t", "n02124076\t", r"words\.txt: expected a line for n02124075"),
        (
            "val/val_annotations.txt",
            "val_1.JPEG\tn07749582",
            "val_1.JPEG\tn00000001",
            r"line 2: expected an image and a wnid of wnids\.txt, got 'val_1\.JPEG\\tn00000001",
        ),
        (
            "val/val_annotations.txt",
            "val_1.JPEG",
            "val_0.JPEG",
            r"line 2: val_0\.JPEG is not in .*, or in an earlier line too",
        ),
        (
            "val/val_annotations.txt",
            "val_1.JPEG\tn07749582\t0\t32\t44\t62\n",
            "",
            r"a line for each image in .*; 1 have none, such as 'val_1\.JPEG'",
        ),
    ],
)
def test_lists_that_do_not_fit_the_images(changed, file, old, new, message):
    text = (changed / file).read_text()
    assert old in text
    (changed / file).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        load(changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jpeg(0)[:900], "truncated"),
        (b"no image", "not an image in a format that Pillow can read"),
        (jpeg(0, side=32), r"image: expected uint8 \(64, 64, 3\), got uint8 \(32, 32, 3\)"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_images_that_cannot_be_used_are_named(changed, content, message, stream):
    (changed / "val" / "images" / "val_5.JPEG").write_bytes(content)
    with pytest.raises(DataError, match=rf"split 'test', record 5 \(.*val_5\.JPEG\): .*{message}"):
        as_arrays(load(changed, memory_limit_gib=0.0 if stream else 4.0).splits["test"])
