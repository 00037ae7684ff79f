"""Draws docs/pictures/groups.png, wrong_labels.png and coreset.png: what three runs on digits find.

python docs/findings.py [--workdir=runs] [--pictures=docs/pictures]

Trains configs/digits.py with the spread loss and each task, one or two minutes each, into the
folders groups, noise and coreset. Runs that are finished are not run again.
"""

import argparse
import io
import json
import pathlib
import runpy
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits

from thanos_jax.report import plots
from thanos_jax.run import run

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHOWN = (3, 8)  # lines and columns of images


def results(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a finished run."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def groups(folder: pathlib.Path) -> Figure:
    """Draws the accuracy of each true group, with its number of training images."""
    found = results(folder)
    return plots.group_bars(
        [f"{name} ({one['train_images']})" for name, one in found["groups"].items()],
        [one["accuracy"] for one in found["groups"].values()],
        average=found["coarse_accuracy"],
    )


def wrong_labels(folder: pathlib.Path) -> Figure:
    """Draws the images whose labels are suspected most: label given, and label suggested."""
    with np.load(folder / "labels.npz", allow_pickle=False) as file:
        found = dict(file)
    order = np.argsort(-found["suspicion"], kind="stable")[: SHOWN[0] * SHOWN[1]]
    digits = load_digits().images
    figure = Figure(figsize=(1.3 * plots.WIDTH, 1.15 * SHOWN[0]), layout="constrained")
    for axes, row in zip(figure.subplots(*SHOWN).flat, order, strict=True):
        axes.imshow(digits[int(found["filenames_of_train"][row])], cmap="gray_r")
        is_right = found["suggested"][row] == found["right"][row]
        axes.set_title(
            f"{found['given'][row]} \N{RIGHTWARDS ARROW} {found['suggested'][row]}",
            fontsize=10, color=plots.INK if is_right else plots.PALETTE[2],
        )  # fmt: skip
        axes.set_axis_off()
    return figure


def coreset(folder: pathlib.Path) -> Figure:
    """Draws which share of each digit is kept, with its number of training images."""
    found = results(folder)
    images = found["fine_labels"]
    return plots.group_bars(
        [f"{name} ({images[name]['train_images']})" for name in found["kept_share"]],
        list(found["kept_share"].values()),
        average=found["kept_images"] / sum(one["train_images"] for one in images.values()),
        meaning="kept, in per cent",
    )


# Name of a picture -> task, and what draws it.
PICTURES = {
    "groups": ("groups", groups),
    "wrong_labels": ("noise", wrong_labels),
    "coreset": ("coreset", coreset),
}


def main() -> None:
    """Trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--pictures", type=pathlib.Path, default=ROOT / "docs" / "pictures")
    asked = parser.parse_args()
    get_config = runpy.run_path(str(ROOT / "configs" / "digits.py"))["get_config"]
    for name, (task, draw) in PICTURES.items():
        run(get_config(f"spread,{task}"), asked.workdir / task)
        file = io.BytesIO()
        draw(asked.workdir / task).savefig(file, format="png", dpi=110, facecolor="white")
        picture = Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        picture.save(asked.pictures / f"{name}.png", optimize=True)
        print(asked.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
