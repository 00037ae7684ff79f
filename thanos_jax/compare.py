"""Methods side by side: every method with several seeds, and one table of means.

python -m thanos_jax.compare --config=configs/digits.py --workdir=DIR [--methods=ce,supcon,thanos]
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from thanos_jax import command

# results.json's key, the column's title, and what its numbers are multiplied by.
COLUMNS = (
    (("fine_accuracy",), "fine", 100),
    (("fine_accuracy_knn",), "fine, nearest neighbours", 100),
    (("fine_accuracy_class_mean",), "fine, class means", 100),
    (("coarse_accuracy",), "coarse", 100),
    (("geometry", "test", "collapse_index"), "collapse index", 1),
    (("train_seconds",), "seconds", 1),
)


def compare(
    config: ml_collections.ConfigDict,
    methods: Sequence[str],
    seeds: int,
    workdir: pathlib.Path,
) -> str:
    """Runs what has not been run, each in workdir/METHOD/SEED, and writes the table.

    Args:
      config: of any method; method and seed are replaced.
      methods: keys of `thanos_jax.train.objective.METHODS`.
      seeds: 0 .. seeds - 1 are run.
      workdir: gets the runs, table.md and results.json (a list of all results).

    Returns:
      The table, in Markdown.
    """
    from thanos_jax.config import check
    from thanos_jax.run import run
    from thanos_jax.train.metrics import write_atomically

    def configured(method: str, seed: int) -> ml_collections.ConfigDict:
        one = config.copy_and_resolve_references()
        one.method, one.seed = method, seed
        return one

    for method in methods:
        check(configured(method, 0))  # before the first run, not before the last
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for seed in range(seeds):
        for method in methods:
            print(f"== {method}, seed {seed}", flush=True)
            found[method].append(run(configured(method, seed), workdir / method / str(seed)))
            # Rewritten after every run, so that an interrupted comparison shows what it has.
            text = table({name: results for name, results in found.items() if results})
            write_atomically(workdir / "table.md", text)
    everything = [result for results in found.values() for result in results]
    write_atomically(workdir / "results.json", json.dumps(everything, indent=2) + "\n")
    return text


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a Markdown table: mean ± sample standard deviation over each method's results."""
    lines = [
        "| method | " + " | ".join(title for _, title, _ in COLUMNS) + " | runs |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for method, results in found.items():
        cells = []
        for path, _, scale in COLUMNS:
            values = [scale * _lookup(result, path) for result in results]
            digits = 1 if scale == 100 or path == ("train_seconds",) else 3
            cell = f"{statistics.fmean(values):.{digits}f}"
            if len(values) > 1:
                cell += f" ± {statistics.stdev(values):.{digits}f}"
            cells.append(cell)
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {len(results)} |")
    return "\n".join(lines) + "\n"


def _lookup(result: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = result
    for key in path:
        value = value[key]
    return value


_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration, a Python file (it is run).", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs and of the table.")
_METHODS = flags.DEFINE_list("methods", None, "Methods to compare; all if not given.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each method.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Runs the comparison and prints its table."""
    from thanos_jax.train.objective import METHODS

    methods = _METHODS.value or tuple(METHODS)
    print(compare(_CONFIG.value, methods, _SEEDS.value, pathlib.Path(str(_WORKDIR.value))))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command.start(main)
