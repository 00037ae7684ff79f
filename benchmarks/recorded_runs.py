"""Records short runs of every task on the digits, and compares two versions of the code by them.

    python benchmarks/recorded_runs.py record DIR
    python benchmarks/recorded_runs.py compare DIR OTHER [--renamed OLD=NEW ...] [--tolerance 1e-6]

`record` runs every method of every task for a few steps, each in its own folder in DIR; finished
runs are skipped. `compare` compares every number of results.json and of every metrics.jsonl in DIR
with OTHER, bit by bit, and prints the ones that differ. Times and versions are left out. With
--tolerance, numbers may differ by that much, relatively, and accuracies and recalls by 0.01.

To show that a change of the code does not change any number, record with the code before and after
on the same machine, and compare.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
LEFT_OUT = ("seconds", "train_seconds", "scoring_seconds", "images_per_second", "versions")
_SHORT = {
    "train.epochs": 2.0,
    "train.log_every": 1,
    "train.evaluate_every_epochs": 1.0,
    "train.checkpoint_every_epochs": 1.0,
    "transfer.iterations": 50,
    "report.map_points": 200,
}
_METHODS = (
    *("ce", "info_nce", "supcon", "supcon_info_nce", "cauto", "spread", "supcon_cauto", "thanos"),
    "joint",
)
# Name of a run -> config, its argument, and keys to set in addition to `_SHORT`.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"transfer_{method}": ("digits", method, {}) for method in _METHODS},
    "transfer_chunks": ("digits", "thanos", {"train.micro_batch_size": 64}),
    "transfer_resident": ("digits", "supcon", {"train.resident": "yes"}),
    "transfer_separate": ("digits", "thanos", {"model.arrangement": "separate"}),
    "transfer_bits": ("digits", "joint", {"data.random_bits": 4, "transfer.every_epochs": 1.0}),
    "transfer_skip": ("digits", "spread", {"train.on_nonfinite": "skip", "seed": 3}),
    **{
        f"groups_{method}": (
            "digits",
            "spread,groups",
            {"groups.method": method, "classifier.epochs": 3.0, "groups.jtt_epochs": 1.0},
        )
        for method in (
            *("erm", "jtt", "group_dro", "group_dro_true", "reweight", "undersample", "none"),
        )
    },
    **{
        f"noise_{method}": (
            "digits",
            "supcon,noise",
            {"noise.method": method, "classifier.epochs": 3.0, "noise.forget_epochs": 1.0},
        )
        for method in ("mend", "ce", "co_teaching", "elr")
    },
    **{
        f"coreset_{method}": (
            "digits",
            "spread,coreset",
            {"coreset.method": method, "coreset.runs": 2, "coreset.el2n_epochs": 2.0},
        )
        for method in ("common_strata", "random", "forgetting", "el2n", "herding")
    },
}


def configured(name: str, argument: str, overrides: Mapping[str, Any]) -> Any:
    """Returns the config of a file in configs/, with some keys overridden."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument)
    for key, value in overrides.items():
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        node[last] = value
    return config


def record(folder: pathlib.Path) -> None:
    """Does every run that is missing in the folder."""
    import jax

    from thanos_jax.run import run
    from thanos_jax.tables import comparison

    for name, (config, argument, overrides) in RUNS.items():
        if not (folder / name / "results.json").exists():
            print(f"== {name}", flush=True)
            run(configured(config, argument, {**_SHORT, **overrides}), folder / name)
            jax.clear_caches()
    if not (folder / "compare" / "results.json").exists():
        comparison.compare(
            configured("digits", "", _SHORT),
            folder / "compare",
            table="joint_loss",
            values=["0.2", "0.8"],
            seeds=2,
        )


def numbers(folder: pathlib.Path, renamed: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yields ("file line key", value) for every number and text in the results of a folder."""
    for path in sorted([*folder.rglob("results.json"), *folder.rglob("metrics.jsonl")]):
        parts = [renamed.get(part, part) for part in path.relative_to(folder).parts]
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        for number, line in enumerate(lines, 1):
            for key, value in _flatten(json.loads(line)):
                yield f"{'/'.join(parts)} {number} {key}", value


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in LEFT_OUT:
                yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def differing(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float, images: int
) -> list[str]:
    """Returns a line for each number that is missing or differs."""
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        then, now = before.get(key, "nothing"), after.get(key, "nothing")
        alike = then == now
        if not alike and tolerance and isinstance(then, float) and isinstance(now, float):
            most = 1 / images if "accuracy" in key or "recall" in key else 0.0
            alike = math.isclose(then, now, rel_tol=tolerance, abs_tol=most)
        if not alike:
            found.append(f"{key}: {then!r} before, {now!r} after")
    return found


def main() -> int:
    """Records, or compares and returns 1 if a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--tolerance", type=float, default=0.0)
    asked = parser.parse_args()
    if asked.action == "record":
        record(asked.folders[0])
        return 0
    renamed = dict(pair.split("=") for pair in asked.renamed)
    before, after = (dict(numbers(folder, renamed)) for folder in asked.folders)
    found = differing(before, after, asked.tolerance, images=100)
    print("\n".join(found))
    print(f"{len(before)} numbers before, {len(after)} after, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
