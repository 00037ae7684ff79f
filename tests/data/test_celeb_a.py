"""CelebA: groups, squares, from disk and in memory."""

import io

import numpy as np
import pytest
from stored_sets import as_arrays, assert_equal_batches, config, encode, example, write_dataset

from thanos_jax.data import sources
from thanos_jax.data.batches import train_batches


@pytest.fixture(scope="module")
def celeb_a(tmp_path_factory):
    from PIL import Image
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a

    root = tmp_path_factory.mktemp("celeb_a")
    rng = np.random.default_rng(0)
    truth, splits = {}, {}
    for split, size in (("train", 23), ("validation", 8), ("test", 8)):
        truth[split], splits[split] = [], []
        for _ in range(size):
            noise = Image.fromarray(rng.integers(0, 256, (22, 18, 3), np.uint8))
            picture = np.asarray(noise.resize((178, 218), Image.Resampling.BICUBIC))
            jpeg = encode(picture, "JPEG")
            attributes = {name: rng.integers(2) for name in celeb_a.ATTR_HEADINGS}
            others = {f"landmarks__{name}": 100 for name in celeb_a.LANDMARK_HEADINGS}
            marks = {f"attributes__{name}": value for name, value in attributes.items()}
            record = example(jpeg, **marks, **others, identity__Identity_No=1)
            splits[split].append(record)
            truth[split].append((jpeg, attributes["Blond_Hair"], attributes["Male"]))
    write_dataset(root, "celeb_a", splits, shards=2)
    return root, truth


def celeb_a_config(root, **changes):
    return config("celeb_a", **{"data_dir": str(root), "memory_limit_gib": 0.0, **changes})


def test_celeb_a_streams_groups_and_squares(celeb_a):
    from PIL import Image

    root, truth = celeb_a
    dataset = sources.load(celeb_a_config(root, image_size=64))
    assert dataset.image_shape == (64, 64, 3)
    assert {key: len(split) for key, split in dataset.splits.items()} == {
        "train": 23,
        "validation": 8,
        "test": 8,
    }
    for key, split in dataset.splits.items():
        assert not split.in_memory
        batch = as_arrays(split)
        blond = np.array([record[1] for record in truth[key]])
        male = np.array([record[2] for record in truth[key]])
        np.testing.assert_array_equal(batch["coarse"], blond)
        np.testing.assert_array_equal(batch["fine"], 2 * blond + male)
        for image, (jpeg, _, _) in zip(batch["image"], truth[key], strict=True):
            square = Image.open(io.BytesIO(jpeg)).crop((0, 20, 178, 198))
            expected = square.resize((64, 64), Image.Resampling.BILINEAR)
            difference = np.abs(image.astype(int) - np.asarray(expected).astype(int))
            # Pillow looks past the crop when it has the whole picture: only the rim may differ.
            assert difference[1:-1, 1:-1].max() <= 1


def test_celeb_a_as_stored(celeb_a):
    from PIL import Image

    root, truth = celeb_a
    dataset = sources.load(celeb_a_config(root))
    assert dataset.image_shape == (218, 178, 3)
    batch = as_arrays(dataset.splits["test"])
    for image, (jpeg, _, _) in zip(batch["image"], truth["test"], strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(jpeg))))


def test_celeb_a_in_memory_is_celeb_a_from_disk(celeb_a):
    root, _ = celeb_a
    options = celeb_a_config(root, image_size=64)
    streamed = sources.load(options)
    options.memory_limit_gib = 4.0
    held = sources.load(options)
    for key, split in held.splits.items():
        assert split.in_memory
        assert_equal_batches(as_arrays(split), as_arrays(streamed.splits[key]))


@pytest.mark.parametrize("first_step", [0, 3, 7])
def test_celeb_a_batches_read_ahead_and_resume(first_step, celeb_a):
    root, _ = celeb_a
    train = sources.load(celeb_a_config(root, image_size=64)).splits["train"]
    options = {"seed": 5, "batch_size": 6, "last_step": 9}
    plain = list(train_batches(train, first_step=0, read_threads=0, **options))
    ahead = list(train_batches(train, first_step=first_step, **options))
    assert len(ahead) == 9 - first_step
    for found, expected in zip(ahead, plain[first_step:], strict=True):
        assert_equal_batches(found, expected)
