"""Any image classification set of TFDS: small ones written here, and the real Fashion-MNIST."""

import json
import pathlib

import numpy as np
import pytest
import stored_sets

from thanos_jax import config as schema
from thanos_jax.data import DatasetNotFound, sources
from thanos_jax.data.splits import DataError

tfds = pytest.importorskip("tensorflow_datasets")

STORED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"

SHAPES = ("circle", "square", "triangle", "star", "cross")
FEATURES = {
    "image": lambda: tfds.features.Image(shape=(6, 5, 3)),
    "label": lambda: tfds.features.ClassLabel(names=list(SHAPES)),
    "kind": lambda: tfds.features.ClassLabel(names=["round", "angular"]),
    "year": lambda: tfds.features.Scalar(np.int64),
    "attributes": lambda: {"filled": tfds.features.Scalar(np.bool_)},
    "title": lambda: tfds.features.Text(),
}


def record(number, shape=(6, 5, 3)):
    image = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    return stored_sets.example(
        stored_sets.encode(image),
        label=number % 5,
        kind=number % 5 != 0,
        year=(1990, 1890, 2005)[number % 3],
        attributes__filled=number % 2,
    )


def write(root, sizes, *, folder="shapes/1.0.0", shape_of=lambda number: (6, 5, 3), **features):
    """A set of its own; `features` replaces or, with None, leaves out some."""
    path = root / folder
    path.mkdir(parents=True)
    name = folder.partition("/")[0]
    chosen = {key: make() for key, make in {**FEATURES, **features}.items() if make is not None}
    tfds.features.FeaturesDict(chosen).save_config(str(path))
    start, described = 0, []
    for split, size in sizes.items():
        file = f"{name}-{split}.array_record-00000-of-00001"
        records = [record(number, shape_of(number)) for number in range(start, start + size)]
        stored_sets.write_array_record(path / file, records)
        start += size
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(size)]
        described.append(
            {"name": split, "filepathTemplate": template, "numBytes": "1", "shardLengths": lengths}
        )
    info = {"name": name, "version": path.name, "fileFormat": "array_record", "splits": described}
    if folder.count("/") == 2:
        info["configName"] = folder.split("/")[1]
    (path / "dataset_info.json").write_text(json.dumps(info))
    return root


def load(root, **changes):
    config = schema.default()
    config.data.update({"name": "tfds", "tfds": "shapes", "data_dir": str(root), **changes})
    schema.check(config)
    return sources.load(config.data)


def as_arrays(split):
    return split.read(np.arange(len(split)))


def sizes_of(dataset):
    return {name: len(split) for name, split in dataset.splits.items()}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shapes"), {"train": 40, "test": 15})


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_classes_have_the_names_of_the_metadata_and_moments_are_measured(shapes, limit):
    dataset = load(shapes, memory_limit_gib=limit)
    assert dataset.name == "shapes"
    assert sizes_of(dataset) == {"train": 36, "validation": 4, "test": 15}
    assert dataset.fine_names == dataset.coarse_names == SHAPES
    assert dataset.image_shape == (6, 5, 3)
    assert all(split.in_memory == (limit > 0) for split in dataset.splits.values())
    test = as_arrays(dataset.splits["test"])
    np.testing.assert_array_equal(test["fine"], np.arange(40, 55) % 5)
    np.testing.assert_array_equal(test["coarse"], test["fine"])
    image = np.random.default_rng(40).integers(0, 256, (6, 5, 3), np.uint8)
    np.testing.assert_array_equal(test["image"][0], image)
    pixels = as_arrays(dataset.splits["train"])["image"] / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 1, 2)))


def test_labels_are_features_of_the_config_s_choice(shapes):
    dataset = load(shapes, coarse_key="kind")
    assert dataset.coarse_names == ("round", "angular")
    test = as_arrays(dataset.splits["test"])
    np.testing.assert_array_equal(test["coarse"], test["fine"] != 0)
    # A coarse class may hold some examples only of a fine class, and a feature lie in another.
    dataset = load(shapes, fine_key="kind", coarse_key="attributes/filled")
    assert dataset.coarse_names == ("0", "1")
    test = as_arrays(dataset.splits["test"])
    np.testing.assert_array_equal(test["coarse"], np.arange(40, 55) % 2)
    np.testing.assert_array_equal(test["fine"], np.arange(40, 55) % 5 != 0)


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_classes_without_names_are_the_values_there_are(shapes, limit):
    dataset = load(shapes, fine_key="year", memory_limit_gib=limit)
    assert dataset.fine_names == ("1890", "1990", "2005")
    test = as_arrays(dataset.splits["test"])
    np.testing.assert_array_equal(test["fine"], np.array([1, 0, 2])[np.arange(40, 55) % 3])


def test_a_coarse_map_has_names_or_ids(shapes, tmp_path):
    table = tmp_path / "map.csv"
    lines = ["coarse,fine,note", "no corners,circle,", "corners,square,", "corners,2,"]
    table.write_text("\n".join([*lines, "corners,star,", "crossing,4,", "unused,heart,"]))
    dataset = load(shapes, coarse_map=str(table))
    assert dataset.coarse_names == ("corners", "crossing", "no corners")
    test = as_arrays(dataset.splits["test"])
    np.testing.assert_array_equal(test["coarse"], np.array([2, 0, 0, 0, 1])[test["fine"]])
    table.write_text("fine,coarse\ncircle,a\n")
    with pytest.raises(DataError, match=r"line for fine class 'square' \(1\) of shapes.*map\.csv"):
        load(shapes, coarse_map=str(table))
    with pytest.raises(DataError, match=r"data\.coarse_map: expected '' with .*'kind', got '.*csv"):
        load(shapes, coarse_map=str(table), coarse_key="kind")


def test_rare_strata_are_those_of_any_set(shapes):
    counts = [
        np.bincount(np.concatenate([part.fine for name, part in splits.items() if name != "test"]))
        for splits in (
            load(shapes).splits,
            load(shapes, coarse_key="kind", rare_fraction=0.5).splits,
        )
    ]
    # Round: the circle alone; angular: of four, the last two.
    np.testing.assert_array_equal(counts[0], [8, 8, 8, 8, 8])
    np.testing.assert_array_equal(counts[1], [8, 8, 8, 4, 4])


def test_stored_validation_is_used(tmp_path):
    write(tmp_path, {"train": 20, "validation": 10, "test": 5})
    dataset = load(tmp_path)
    assert sizes_of(dataset) == {"train": 20, "validation": 10, "test": 5}
    dataset = load(tmp_path, test_split="validation")
    assert sizes_of(dataset) == {"train": 18, "validation": 2, "test": 10}


def test_without_a_test_split_one_is_chosen(tmp_path):
    write(tmp_path, {"train": 50})
    with pytest.raises(
        DataError, match=r"data\.test_split: expected one of train, the splits of sh"
    ):
        load(tmp_path)
    first, second = (load(tmp_path, test_split="train", split_seed=seed) for seed in (1, 2))
    assert sizes_of(first) == {"train": 36, "validation": 4, "test": 10}
    np.testing.assert_array_equal(np.bincount(first.splits["test"].fine), [2, 2, 2, 2, 2])
    tests = [as_arrays(dataset.splits["test"])["image"] for dataset in (first, second)]
    np.testing.assert_array_equal(*tests)
    images = np.concatenate([as_arrays(split)["image"] for split in first.splits.values()])
    assert len({image.tobytes() for image in images}) == 50
    write(tmp_path / "other", {"test": 5})
    with pytest.raises(
        DataError,
        match=r"data\.tfds: expected a set with the split 'train', got 'shapes' with test",
    ):
        load(tmp_path / "other")


def test_configs_and_versions(tmp_path):
    for folder, size in (("1.0.0", 10), ("1.2.0", 20), ("1.10.0", 30)):
        write(tmp_path, {"train": size, "test": 5}, folder=f"shapes/small/{folder}")
    assert sum(sizes_of(load(tmp_path, tfds="shapes/small")).values()) == 35
    dataset = load(tmp_path, tfds="shapes/small:1.2.0")
    assert sum(sizes_of(dataset).values()) == 25
    assert dataset.name == "shapes/small:1.2.0"
    for name, words in (
        ("shapes/small:2.0.0", r"2\.0\.0/dataset_info\.json .*tfds build shapes/small:2\.0\.0 "),
        ("shapes", r"holds the configs small\. Either prepare it: .* tfds build shapes "),
    ):
        with pytest.raises(DatasetNotFound, match=words):
            load(tmp_path, tfds=name)


def test_images_of_many_sizes_need_one(tmp_path):
    write(
        tmp_path,
        {"train": 20, "test": 5},
        shape_of=lambda number: (6 + number % 3, 7, 1 if number % 4 == 0 else 3),
        image=lambda: tfds.features.Image(shape=(None, None, 3)),
    )
    with pytest.raises(
        DataError, match=r"data\.image_size: .* those of shapes differ in size, got 0"
    ):
        load(tmp_path)
    dataset = load(tmp_path, image_size=4)
    assert dataset.image_shape == (4, 4, 3)
    assert as_arrays(dataset.splits["test"])["image"].shape == (5, 4, 4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fine_key": "lable"},
            r"data\.fine_key: expected one of the integer features of shapes \(.*\), got 'lable'",
        ),
        ({"fine_key": "title"}, r"\(attributes/filled, kind, label, year\), got 'title'"),
        ({"fine_key": ""}, r"data\.fine_key: expected one of .*, got ''"),
        ({"coarse_key": "image"}, r"data\.coarse_key: expected one of .*, got 'image'"),
        ({"tfds": ""}, r"data\.tfds: expected NAME.* of TFDS, got ''"),
        ({"coarse_map": "no.csv"}, r"data\.coarse_map: expected a CSV with the columns fine and"),
        ({"name": "mnist"}, r"data\.tfds: expected '' for mnist, got 'shapes'; only tfds reads it"),
        (
            {"name": "digits", "tfds": "", "test_split": "train"},
            r"data\.test_split: expected 'test' for digits, got 'train'; only tfds reads it",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(shapes, changes, message):
    with pytest.raises(DataError, match=message):
        load(shapes, **changes)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"shapes: expected a feature 'image' in .*, got the features .*label"),
        (lambda: tfds.features.Image(shape=(6, 5, 4)), r"shapes: image: .*got uint8 \(6, 5, 4\)"),
    ],
)
def test_images_that_cannot_be_used_are_named(tmp_path, image, message):
    write(tmp_path, {"train": 5, "test": 5}, image=image)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not (STORED / "fashion_mnist").exists(),
    reason="no Fashion-MNIST beside the checkout (../shared/data/tfds)",
)
def test_fashion_mnist_is_whole_and_named_as_in_its_metadata():
    config = schema.default()
    config.data.update(name="fashion_mnist", data_dir=str(STORED))
    entry = sources.load(config.data)
    plain = load(STORED, tfds="fashion_mnist", memory_limit_gib=0.0)
    assert sizes_of(entry) == {"train": 54000, "validation": 6000, "test": 10000}
    assert entry.fine_names == plain.fine_names
    for name, split in entry.splits.items():
        chosen = np.arange(0, len(split), 100)
        for key, found in plain.splits[name].read(chosen).items():
            if key != "coarse":
                np.testing.assert_array_equal(found, split.read(chosen)[key])
    pixels = np.concatenate([entry.splits[name].images for name in ("train", "validation")])
    counts = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    levels = np.arange(256) / 255
    mean = counts @ levels
    np.testing.assert_allclose(entry.mean, [mean], atol=5e-5)
    np.testing.assert_allclose(entry.std, [np.sqrt(counts @ (levels - mean) ** 2)], atol=5e-5)
    np.testing.assert_array_equal(np.bincount(entry.splits["test"].fine), np.full(10, 1000))
