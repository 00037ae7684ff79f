"""Data sets as TFDS stores them, written here without TensorFlow: real features, real images.

`MNIST` is the whole set beside the checkout, which tests with `needs_mnist` read.
"""

import io
import json
import pathlib

import numpy as np
import pytest

from thanos_jax import config as schema

MNIST = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"
needs_mnist = pytest.mark.skipif(
    not (MNIST / "mnist").exists(), reason="no MNIST beside the checkout (../shared/data/tfds)"
)


def config(name, **changes):
    found = schema.default()
    found.data.update({"name": name, **changes})
    schema.check(found)
    return found.data


def as_arrays(split):
    return split.read(np.arange(len(split)))


def assert_equal_batches(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        np.testing.assert_array_equal(first[key], second[key])


def encode(image, kind="PNG"):
    from PIL import Image

    image = np.asarray(image)
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, format=kind)
    return stream.getvalue()


def example(image, **integers):
    """A tf.train.Example as TFDS writes it; a / in a feature's name is spelt __."""
    from tensorflow_datasets.proto import tf_example_pb2

    result = tf_example_pb2.Example()
    result.features.feature["image"].bytes_list.value.append(image)
    for key, value in integers.items():
        name = key.replace("__", "/")
        result.features.feature[name].int64_list.value.append(int(value))
    return result.SerializeToString()


def write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_dataset(root, name, splits, *, file_format="array_record", declare=None, shards=1):
    """A data set folder with TFDS's own features; `splits` maps a name to its records."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)(data_dir=str(root / "nowhere"))
    folder = root / name / str(builder.version)
    folder.mkdir(parents=True)
    builder.info.features.save_config(str(folder))
    described = []
    for split, records in splits.items():
        parts = [part.tolist() for part in np.array_split(np.arange(len(records)), shards)]
        for number, part in enumerate(parts):
            if file_format == "array_record":
                file = f"{name}-{split}.array_record-{number:05d}-of-{shards:05d}"
                write_array_record(folder / file, [records[index] for index in part])
        lengths = [str(len(part)) for part in parts] if declare is None else [str(declare)]
        described.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": lengths,
            }
        )
    info = {
        "name": name,
        "version": str(builder.version),
        "fileFormat": file_format,
        "splits": described,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def grey(number, side=28):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (side, side, 1), np.uint8)


def digit_records(size, side=28):
    return [example(encode(grey(i, side)), label=i % 10) for i in range(size)]


def write_digits(root, **options):
    return write_dataset(
        root, "mnist", {"train": digit_records(30), "test": digit_records(10)}, **options
    )
