"""Makes the runs behind the pages of results, records their numbers, and writes the pages.

    python benchmarks/results.py run NAME [NAME ...] --workdir=DIR [--data_dir=DATA]
    python benchmarks/results.py write [--check]

`run` gives the commands of each NAME in `COMMANDS`. They make the runs that DIR/NAME lacks. Then it
writes the record docs/results/NAME.json: the commands, the commits, the machine, and the settings
and numbers of each run, and copies the pictures that `COPIED` names into docs/pictures. `write`
fills the pages of results from the records, as results_page.py says. `write --check` only reports
whether the pages agree with the records.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
from typing import Any

import results_page

from thanos_jax import config as schema
from thanos_jax.config import flatten
from thanos_jax.tables.definitions import TABLES

ROOT = pathlib.Path(__file__).resolve().parents[1]

_SMALL = '--config.model.mlp.widths="(128,128,64)"'
_FASHION = "compare --config=configs/fashion_mnist.py"
# Name of a record -> its commands, run in this order; all but those on the digits need --data_dir.
COMMANDS: dict[str, tuple[str, ...]] = {
    "digits": ("compare --config=configs/digits.py",),
    "mnist": (
        "compare --config=configs/mnist.py --seeds=1",
        "compare --config=configs/mnist.py --methods=supcon,thanos",
    ),
    "mnist_convnet": (
        "compare --config=configs/mnist.py:convnet --seeds=1"
        " --methods=info_nce,supcon,supcon_info_nce,cauto,thanos",
        "compare --config=configs/mnist.py:convnet --methods=info_nce,supcon_info_nce,cauto,thanos",
    ),
    # One run on all cores, for its time.
    "mnist_alone": ("main --config=configs/mnist.py:thanos,convnet",),
    # The weight of the paper, instead of the one chosen on validation.
    "mnist_cauto": (
        "compare --config=configs/mnist.py:convnet --methods=cauto"
        " --config.loss.reconstruction_weight=1.0",
    ),
    "mnist_reconstruction": (
        "compare --config=configs/mnist.py:convnet --table=reconstruction --methods=cauto --seeds=1"
        " --config.train.epochs=5.0",
    ),
    "mnist_tuning": (
        "compare --config=configs/mnist.py:convnet --table=tuning --methods=supcon --seeds=1"
        " --config.train.epochs=5.0",
    ),
    "mnist_sweep": (
        "compare --config=configs/mnist.py --table=spread_sweep --seeds=1"
        " --config.train.epochs=5.0",
    ),
    "mnist_randbit": (
        "compare --config=configs/mnist.py --table=randbit --methods=info_nce,joint,supcon"
        f" --config.train.epochs=3.0 {_SMALL}",
    ),
    "mnist_width": (
        "compare --config=configs/mnist.py --table=embedding_size --methods=info_nce"
        f" --config.data.random_bits=10 --config.train.epochs=3.0 {_SMALL}",
    ),
    # Neither the background nor the split was used to choose settings.
    "mnist_texture": (
        "compare --config=configs/mnist.py:groups --table=groups"
        " --methods=erm,george,jtt,supcon,thanos,group_dro_true --config.data.background=texture"
        " --config.data.correlation=0.99 --config.data.split_seed=7 --seeds=1",
    ),
    "digits_along": (
        "compare --config=configs/digits.py --methods=supcon,thanos --config.train.epochs=600.0"
        " --config.transfer.every_epochs=4.0 --config.transfer.iterations=100",
    ),
    "fashion_convnet": (f"{_FASHION}:convnet --methods=supcon,thanos",),
    "fashion_groups": (f"{_FASHION}:groups --table=groups --methods=erm,thanos",),
    "fashion_noise": (f"{_FASHION}:noise --table=noise --values=0.2 --methods=ce,mend_supcon",),
    # The settings that were chosen for 20 %, as they are.
    "fashion_noise_more": (
        f"{_FASHION}:noise --table=noise --values=0.4 --methods=ce,mend_supcon",
    ),
    "fashion_noise_asymmetric": (
        f"{_FASHION}:noise --table=noise --values=0.3 --methods=ce,mend_supcon"
        " --config.noise.kind=asymmetric",
    ),
    # Soft labels assume symmetric noise; dropping the suspected images assumes nothing of the kind.
    "fashion_noise_drop": (
        f"{_FASHION}:noise --table=noise --values=0.3 --methods=ce,mend_supcon"
        " --config.noise.kind=asymmetric --config.noise.action=drop",
    ),
    "fashion_coreset": (
        f"{_FASHION}:coreset --table=coreset --seeds=1",
        f"{_FASHION}:coreset --table=coreset --methods=all,random,common_strata",
    ),
    # An audit of the labels as they are: none is corrupted.
    "fashion_audit": (
        "main --config=configs/fashion_mnist.py:supcon,noise --config.noise.rate=0.0"
        " --config.train.epochs=5.0",
    ),
}
# Name of a record -> pictures of its table -> their names in docs/pictures.
COPIED = {
    "mnist_sweep": {"against_alpha.png": "sweep_alpha.png"},
    "mnist_randbit": {"against_bits.png": "randbit_bits.png"},
    "digits_along": {"along_training.png": "along_training.png"},
}
# Numbers of a run that a record keeps beside the columns of its table.
KEPT = (
    "seed",
    "train_seconds",
    "fine_accuracy_validation",
    "fine_accuracy_collapsed",
    "detection.flagged",
    "devices",
)


def run(name: str, workdir: pathlib.Path, data_dir: str | None) -> None:
    """Makes the missing runs of a record, then writes the record.

    Args:
      name: a key of `COMMANDS`.
      workdir: the runs are in its folder `name`.
      data_dir: folder of the prepared data sets; the digits need none.
    """
    folder = workdir / name
    folder.mkdir(parents=True, exist_ok=True)
    commit = _output("git", "describe", "--always", "--dirty", "--abbrev=10")
    for given in COMMANDS[name]:
        module, *arguments = shlex.split(given)
        if data_dir:
            arguments.append(f"--config.data.data_dir={data_dir}")
        whole = [sys.executable, "-m", f"thanos_jax.{module}", *arguments, f"--workdir={folder}"]
        try:
            subprocess.run(whole, cwd=ROOT, check=True)
        finally:
            commits = _note_commit(folder, commit)
    results_page.RECORDS.mkdir(exist_ok=True)
    found = record(name, folder, sorted(set(commits.values())))
    (results_page.RECORDS / f"{name}.json").write_text(_text(found), encoding="utf-8")
    for picture, copied in COPIED.get(name, {}).items():
        shutil.copyfile(folder / picture, results_page.PICTURES / copied)


def _note_commit(folder: pathlib.Path, commit: str) -> dict[str, str]:
    """Records `commit` for every run that has ended since the last call.

    Returns:
      Folder of a run -> commit at which it ended; also written to DIR/NAME.commits.json.
    """
    path = folder.parent / f"{folder.name}.commits.json"
    commits: dict[str, str] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for results in sorted(folder.rglob("results.json")):
        if (results.parent / "config.json").exists():  # the results of a run, not of its table
            commits.setdefault(str(results.parent.relative_to(folder)), commit)
    path.write_text(json.dumps(commits, indent=1), encoding="utf-8")
    return commits


def record(name: str, folder: pathlib.Path, commits: list[str]) -> dict[str, Any]:
    """Returns the record of a folder of runs, or of a single run."""
    if (folder / "table.json").exists():
        table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        rows = table["rows"]
    else:
        table, rows = {"table": None}, [{"folder": "run", "labels": {}, "overrides": {}}]
    columns = [column.path for column in TABLES[table["table"]].columns] if table["table"] else None
    config: dict[str, Any] = {}
    kept = []
    for row in rows:
        places = [folder] if table["table"] is None else sorted((folder / row["folder"]).iterdir())
        runs = []
        for place in places:
            found = json.loads((place / "results.json").read_text(encoding="utf-8"))
            one = {
                key: value
                for key, value in flatten(found).items()
                if columns is None or key in columns or key in KEPT or key.startswith("versions.")
            }
            if "along_training" in found:
                one["along_training"] = found["along_training"]
            runs.append(one)
            given = flatten(json.loads((place / "config.json").read_text(encoding="utf-8")))
            config = {key: value for key, value in given.items() if not key.endswith("data_dir")}
        kept.append({**{key: row[key] for key in ("folder", "labels", "overrides")}, "runs": runs})
    overridden = {key for row in rows for key in row["overrides"]} | {"seed", "config_version"}
    return {
        "commands": COMMANDS[name],
        "commits": commits,
        "machine": machine(),
        "table": table["table"],
        # Settings that all rows share and that are not the default.
        "config": {
            key: value
            for key, value in config.items()
            if key not in overridden and key in schema.FIELDS and value != _default(key)
        },
        "rows": kept,
    }


def _text(found: dict[str, Any]) -> str:
    """Returns a record as JSON with one run a line, so that a diff shows the runs that changed."""
    lines = [f" {json.dumps(key)}: {json.dumps(found[key])}" for key in found if key != "rows"]
    rows = []
    for row in found["rows"]:
        about = json.dumps({key: value for key, value in row.items() if key != "runs"})
        runs = ",\n".join(f"   {json.dumps(one)}" for one in row["runs"])
        rows.append(f'  {about[:-1]}, "runs": [\n{runs}\n  ]}}')
    lines.append(' "rows": [\n' + ",\n".join(rows) + "\n ]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _default(key: str) -> Any:
    value = schema.FIELDS[key].default
    return list(value) if isinstance(value, tuple) else value


def machine() -> str:
    """Returns a description of this machine: processor, cores and Python version."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def _output(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> int:
    """Runs, or writes; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run")
    running.add_argument("names", nargs="+", choices=COMMANDS, metavar="NAME")
    running.add_argument("--workdir", type=pathlib.Path, required=True)
    running.add_argument("--data_dir")
    actions.add_parser("write").add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.action == "run":
        for name in asked.names:
            run(name, asked.workdir.resolve(), asked.data_dir)
        return 0
    code = 0
    for name, text in results_page.pages().items():
        page = ROOT / "docs" / f"{name}.md"
        if not asked.check:
            page.write_text(text, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text:
            print(f"{page} disagrees with docs/results; run: python {sys.argv[0]} write")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
