"""Draws docs/pictures/which_loss.png: embeddings of the test digits under each loss.

python docs/which_loss.py [--workdir=runs/which_loss] [--picture=docs/pictures/which_loss.png]

Trains configs/digits.py by nine methods, half a minute each, and prints how far each spreads a
class. Finished runs in the folder are not run again. Colours are the ten digits; the losses know
only whether a digit is at least 5. All maps have one scale, the same in both directions.
"""

import argparse
import io
import pathlib
import runpy

from PIL import Image

from thanos_jax.report import folder, map_page, plots
from thanos_jax.run import run

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Name of a map -> method, and config keys to override.
LOSSES = {
    "cross-entropy": ("ce", {}),
    "SupCon": ("supcon", {}),
    "InfoNCE": ("info_nce", {}),
    "joint, β 0.5": ("joint", {}),
    "spread, \N{GREEK SMALL LETTER ALPHA} 0.5": ("spread", {}),
    "class-conditional InfoNCE": ("spread", {"loss.alpha": 1.0}),
    "autoencoder": ("cauto", {}),
    "SupCon, autoencoder": ("supcon_cauto", {}),
    "Thanos: spread, autoencoder": ("thanos", {}),
}


def trained(workdir: pathlib.Path, epochs: float | None) -> dict[str, folder.Reported]:
    """Returns the finished run of each loss; missing runs are done first."""
    get_config = runpy.run_path(str(ROOT / "configs" / "digits.py"))["get_config"]
    runs = {}
    for name, (method, keys) in LOSSES.items():
        config = get_config(method)
        config.update_from_flattened_dict(keys)
        if epochs is not None:
            config.train.epochs = epochs
        place = workdir / "_".join([method, *map(str, keys.values())])
        run(config, place)
        runs[name] = folder.read(place)
    return runs


def draw(runs: dict[str, folder.Reported]) -> Image.Image:
    """Returns a picture of the maps of all runs, three in a line, with few colours."""
    maps = {name: one.image_map for name, one in runs.items()}
    reference = maps["SupCon"]
    fine = next(column for column in reference.columns if column.name == "fine label")
    points, labels = {}, {}
    for name, one in maps.items():
        assert map_page.same_images(one, reference), name
        spread = runs[name].results["geometry"]["test"]["within_class_spread"]
        title = f"{name} (W {spread:.2f})"
        points[title] = map_page.turned(one.layout.plane, reference.layout.plane)
        labels[title] = fine.values
    figure = plots.maps_beside(points, labels, fine.names, columns=3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor="white")
    return Image.open(file).convert("RGB").quantize(96, dither=Image.Dither.NONE)


def main() -> None:
    """Trains, draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/which_loss"))
    parser.add_argument(
        "--picture", type=pathlib.Path, default=ROOT / "docs" / "pictures" / "which_loss.png"
    )
    parser.add_argument("--epochs", type=float, help="fewer than the config's, to try it")
    asked = parser.parse_args()
    runs = trained(asked.workdir, asked.epochs)
    draw(runs).save(asked.picture, optimize=True)
    for name, one in runs.items():
        numbers = one.results["geometry"]["test"]
        print(
            f"{name:28} W {numbers['within_class_spread']:.3f}, "
            f"collapse index {numbers['collapse_index']:.3f}, "
            f"fine accuracy {100 * one.results['fine_accuracy']:.1f} %"
        )


if __name__ == "__main__":
    main()
