"""A run on image files whose files are gone, and the same files elsewhere."""

import csv
import shutil
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax.tasks import stages, transfer


class Finished(NamedTuple):
    folder: object
    pictures: object  # the files of all images, as they were
    results: dict


def write_digits(folder, count):
    """Real digits as PNG files of 16 x 20 pixels in two levels of folders, and labels.csv."""
    images, labels = load_digits(return_X_y=True)
    rows = []
    for number in range(count):
        label = int(labels[number])
        name = f"{'low' if label < 5 else 'high'}/{label}/{number:04d}.png"
        pixels = np.uint8(images[number].reshape(8, 8) * (255 / 16))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((16, 20), Image.Resampling.NEAREST).save(path)
        rows.append({"filename": name, "coarse": name.split("/")[0], "fine": label})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("filename", "coarse", "fine"))
        writer.writeheader()
        writer.writerows(rows)


def config_of(folder, **train):
    config = schema.default()
    config.data.update(name="folder", data_dir=str(folder), image_size=8)
    config.augment.update(crop_scale=(1.0, 1.0), flip=0.0, jitter_probability=0.0)
    config.model.update(encoder="mlp", arrangement="shared", projection=(6,))
    config.model.mlp.widths = (16, 8)
    config.train.update(batch_size=64, max_steps=3, learning_rate=3e-3, **train)
    config.transfer.iterations = 5
    config.report.update(map_points=20, keep_embeddings=True)
    return config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run of thanos on 200 digits."""
    root = tmp_path_factory.mktemp("trained")
    write_digits(root / "data", 200)
    shutil.copytree(root / "data", root / "pictures")
    with pytest.MonkeyPatch.context() as patch:  # half of what a short run costs
        patch.setattr(transfer, "_figures", lambda *arguments: {})
        patch.setattr(stages, "transferred", lambda *given: ({"fine_accuracy": 0.875}, None))
        results = run_module.run(config_of(root / "data"), root / "run")
    shutil.rmtree(root / "data")
    return Finished(root / "run", root / "pictures", results)
