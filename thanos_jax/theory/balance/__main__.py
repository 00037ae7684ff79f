r"""Command that predicts how far a class spreads, in tables and pictures, without training.

    python -m thanos_jax.theory.balance [--classes=2,10] [--temperature=0.1,0.5] \
        [--batch_size=256] [--images_per_class=0] [--images_in_all=0] [--loss=spread] \
        [--denominator=all] [--views=all] [--workdir=runs/balance] [--runs=DIR,...]

It prints W at the loss's minimum, the thresholds, and the weight for W = 0.5, and writes them to
balance.json, with spread.png, thresholds.png and ranges.png. With --runs, measured.png compares
finished trainings, with the first number of classes, with their predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from thanos_jax import command
from thanos_jax.theory.balance.batches import BalanceError
from thanos_jax.theory.balance.sweep import TABLE, Settings, run

_DEFAULT = Settings()
flags.DEFINE_list("classes", [str(m) for m in _DEFAULT.classes], "Numbers of classes.")
flags.DEFINE_list("temperature", [str(t) for t in _DEFAULT.temperatures], "Temperatures.")
flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Images of a batch.", lower_bound=2)
flags.DEFINE_integer(
    "images_per_class", 0,
    "0: batches are drawn regardless of class; k: of batch_size / k classes, k images each.",
    lower_bound=0,
)  # fmt: skip
flags.DEFINE_integer(
    "images_in_all", 0, "Images of a class in the training set; 0: many.", lower_bound=0
)
flags.DEFINE_string("loss", _DEFAULT.loss, "spread or joint.")
flags.DEFINE_string(
    "denominator", _DEFAULT.denominator, "Denominator of supcon: all or one_positive."
)
flags.DEFINE_string("views", _DEFAULT.views, "all or cross.")
flags.DEFINE_string("workdir", "runs/balance", "Folder for balance.json and the pictures.")
flags.DEFINE_list("runs", [], "Folders of finished trainings, to compare with the prediction.")


def main(argv: Sequence[str]) -> None:
    """Calculates the predictions, draws and prints them."""
    given = flags.FLAGS
    settings = Settings(
        loss=given.loss,
        classes=_numbers("classes", given.classes, int),
        temperatures=_numbers("temperature", given.temperature, float),
        batch_size=given.batch_size,
        images_per_class=given.images_per_class,
        images_in_all=given.images_in_all or math.inf,
        denominator=given.denominator,
        views=given.views,
    )
    found = run(settings, given.workdir, given.runs)
    for classes, by_temperature in found["spread"].items():
        print(
            f"within_class_spread of the minimum, {classes} classes, batches of {given.batch_size}"
        )
        rows = zip(*by_temperature.values(), strict=True)
        _print(settings.weight, settings, dict(zip(TABLE, rows, strict=True)))
    _print_by_classes("the threshold", found["threshold"], settings)
    _print_by_classes("the weight that spreads a class half way", found["for_half"], settings)
    _print_by_classes(
        "weights at which a set beats collapse and uniformity", found["wins"], settings
    )
    for folder, runs in found["measured"].items():
        print(f"within_class_spread of training images, {folder}")
        for one in runs:
            print(
                f"  {one['run']}: measured {one['measured']:.3f}, predicted {one['predicted']:.3f}"
            )
    print(f"{given.workdir}/balance.json and pictures")


def _numbers(name: str, words: Sequence[str], kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        noun = "whole numbers" if kind is int else "numbers"
        raise BalanceError(f"{name}: expected {noun}, got {','.join(words)}") from None


def _print_by_classes(what: str, found: dict[str, Any], settings: Settings) -> None:
    print(f"{what}: {settings.weight}")
    _print("classes", settings, {m: by_t.values() for m, by_t in found.items()})


def _print(first: str, settings: Settings, rows: dict[Any, Any]) -> None:
    lines = [[first, *(f"t={t:g}" for t in settings.temperatures)]]
    lines += [[str(name), *(_cell(value) for value in values)] for name, values in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  " + "  ".join(f"{c:>{width}}" for c, width in zip(line, widths, strict=True)))
    print()


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return " to ".join(f"{end:.3f}" for end in value)
    return f"{value:.3f}"


if __name__ == "__main__":
    command.start(main)
