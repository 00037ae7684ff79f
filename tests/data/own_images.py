"""Images of a user's own, written here, and what is loaded of them."""

import numpy as np

from thanos_jax import config as schema
from thanos_jax.data import sources

CLASSES = (("pet", "cat"), ("pet", "dog"), ("farm", "cow"))


def pixels(number, height=6, width=5, channels=3):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def save(path, image, **options):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.asarray(image)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path, **options)


def write(root, *, each=10, split=None, channels=3):
    """`each` images of three fine classes, in subfolders; `split` is a split for the i-th one."""
    lines = ["filename,coarse,fine" + (",split" if split else "")]
    for place, (coarse, fine) in enumerate(CLASSES):
        for i in range(each):
            save(root / fine / f"{i}.png", pixels(100 * place + i, channels=channels))
            cells = [f"{fine}/{i}.png", coarse, fine, *([split(i)] if split else [])]
            lines.append(",".join(cells))
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def load(root, **changes):
    config = schema.default()
    config.data.update({"name": "folder", "data_dir": str(root), **changes})
    schema.check(config)
    return sources.load(config.data)


def as_arrays(split):
    return split.read(np.arange(len(split)))


def every_image(dataset):
    """Bytes of an image -> (coarse name, fine name), over all splits."""
    found = {}
    for split in dataset.splits.values():
        batch = as_arrays(split)
        for image, coarse, fine in zip(batch["image"], batch["coarse"], batch["fine"], strict=True):
            assert image.tobytes() not in found
            found[image.tobytes()] = dataset.coarse_names[coarse], dataset.fine_names[fine]
    return found
