"""The runs behind docs/results.md: makes them, keeps what they came to, and writes the page.

    python benchmarks/results.py run NAME [NAME ...] --workdir=DIR [--data_dir=DATA]
    python benchmarks/results.py write [--check]

`run` gives the commands of each NAME in `COMMANDS`, which goes on with what is missing in DIR/NAME,
and writes docs/results/NAME.json: the commands, the commits it ran at, the machine, and of each run
its settings and the numbers that tables show. `write` makes docs/results.md from
docs/results/page.in, where these stand for what the files say:

    {{ command NAME }}             its commands, a line each
    {{ made NAME }}                commits, machine, number of runs, hours
    {{ table NAME }}               the table, but for its seconds, which other work may have shared
    {{ cell NAME ROW KEY }}        one cell of it; KEY is one of results.json
    {{ gap NAME ROW OTHER KEY }}   by how much the mean of ROW is above the mean of OTHER

ROW is the folder of the row, "run" for a single run. --check only says whether the page is what the
files say.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from thanos_jax import config as schema
from thanos_jax.config import flatten
from thanos_jax.report import numbers
from thanos_jax.tables import render, summary
from thanos_jax.tables.definitions import TABLES
from thanos_jax.tables.render import Comparison, Line
from thanos_jax.tables.table import Column, Row

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"

_FASHION = "compare --config=configs/fashion_mnist.py"
# Name of a record -> modules and arguments, given one after the other; all but the digits need
# --data_dir.
COMMANDS: dict[str, tuple[str, ...]] = {
    "digits": ("compare --config=configs/digits.py",),
    "mnist": ("compare --config=configs/mnist.py",),
    "mnist_convnet": (
        "compare --config=configs/mnist.py:convnet --seeds=1",
        "compare --config=configs/mnist.py:convnet"
        " --methods=info_nce,supcon,supcon_info_nce,cauto,thanos",
    ),
    "fashion_convnet": (
        f"{_FASHION}:convnet --seeds=1",
        f"{_FASHION}:convnet --methods=supcon,thanos",
    ),
    "fashion_groups": (f"{_FASHION}:groups --table=groups",),
    "fashion_noise": (
        f"{_FASHION}:noise --table=noise --values=0.2,0.4 --seeds=1",
        f"{_FASHION}:noise --table=noise --values=0.2 --methods=ce,mend_spread",
    ),
    "fashion_noise_asymmetric": (
        f"{_FASHION}:noise --table=noise --values=0.3 --config.noise.kind=asymmetric",
    ),
    "fashion_coreset": (f"{_FASHION}:coreset --table=coreset",),
}
# Of a run's results; beside what the columns of its table show.
KEPT = ("seed", "seconds", "train_seconds", "fine_accuracy_validation", "devices", "versions")


def run(name: str, workdir: pathlib.Path, data_dir: str | None) -> None:
    """Makes the runs of a record that are missing, and writes the record.

    Args:
      name: a key of `COMMANDS`.
      workdir: has the runs in a folder of this name.
      data_dir: of the images, for other data than the digits.
    """
    folder = workdir / name
    folder.mkdir(parents=True, exist_ok=True)
    seen = folder.parent / f"{name}.commits"
    commits = seen.read_text(encoding="utf-8").split() if seen.exists() else []
    commit = _output("git", "describe", "--always", "--dirty", "--abbrev=10")
    if commit not in commits:
        seen.write_text("\n".join([*commits, commit]) + "\n", encoding="utf-8")
        commits.append(commit)
    for given in COMMANDS[name]:
        module, *arguments = shlex.split(given)
        if data_dir:
            arguments.append(f"--config.data.data_dir={data_dir}")
        whole = [sys.executable, "-m", f"thanos_jax.{module}", *arguments, f"--workdir={folder}"]
        subprocess.run(whole, cwd=ROOT, check=True)
    RECORDS.mkdir(exist_ok=True)
    found = record(name, folder, commits)
    (RECORDS / f"{name}.json").write_text(_text(found), encoding="utf-8")


def record(name: str, folder: pathlib.Path, commits: list[str]) -> dict[str, Any]:
    """Returns what is kept of a folder of runs, or of one run."""
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
            runs.append({
                key: value
                for key, value in flatten(found).items()
                if columns is None or key in columns or key.partition(".")[0] in KEPT
            })  # fmt: skip
            given = flatten(json.loads((place / "config.json").read_text(encoding="utf-8")))
            config = {key: value for key, value in given.items() if not key.endswith("data_dir")}
        kept.append({**{key: row[key] for key in ("folder", "labels", "overrides")}, "runs": runs})
    overridden = {key for row in rows for key in row["overrides"]} | {"seed", "config_version"}
    return {
        "commands": COMMANDS[name],
        "commits": commits,
        "machine": machine(),
        "table": table["table"],
        # What the rows share, where it is not the default.
        "config": {
            key: value
            for key, value in config.items()
            if key not in overridden and key in schema.FIELDS and value != _default(key)
        },
        "rows": kept,
    }


def _text(found: dict[str, Any]) -> str:
    """Returns a record as JSON in which a run is a line: changes of it can be read."""
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
    """Returns what the runs were made on, for people."""
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


def read(name: str) -> dict[str, Any]:
    """Returns a record.

    Raises:
      SystemExit: there is none of this name; it names those that there are.
    """
    path = RECORDS / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in RECORDS.glob("*.json")))
        raise SystemExit(f"record: expected one of {known}; got {name!r}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def comparison(found: dict[str, Any]) -> Comparison:
    """Returns the table of a record, as `thanos_jax.compare` has it."""
    config = schema.default()
    config.update_from_flattened_dict({key: _tuple(v) for key, v in found["config"].items()})
    entries = {
        row["folder"]: summary.Entry(
            Row(row["labels"], {key: _tuple(v) for key, v in row["overrides"].items()}),
            len(row["runs"]),
            {one["seed"]: one for one in row["runs"]},
            {},
        )
        for row in found["rows"]
    }
    return summary.comparison(found["table"], config, entries)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _line(found: dict[str, Any], folder: str) -> Line:
    if found["table"]:
        lines = {line.folder: line for line in comparison(found).lines}
    else:
        (row,) = found["rows"]
        lines = {row["folder"]: Line({}, {one["seed"]: one for one in row["runs"]}, {}, {})}
    if folder not in lines:
        raise SystemExit(f"row: expected one of {', '.join(lines)}; got {folder!r}")
    return lines[folder]


def _column(key: str) -> Column:
    if not numbers.find(key.split(".")):
        raise SystemExit(f"key: expected one of thanos_jax.report.numbers; got {key!r}")
    return Column(key)


def table(name: str) -> str:
    """Returns the table of a record in Markdown."""
    shown = comparison(read(name))
    columns = [column for column in shown.columns if column.path != "train_seconds"]
    return render.markdown(shown._replace(columns=columns)).rstrip("\n")


def cell(name: str, row: str, key: str) -> str:
    """Returns mean ± deviation of a row's runs, or the number of its one run."""
    column = _column(key)
    summed = render.summarize(_line(read(name), row), column)
    if summed is None:
        raise SystemExit(f"{name} {row}: expected runs with {key}; got none")
    digits = column.number.digits
    text = f"{summed.mean:.{digits}f}"
    return text if summed.deviation is None else f"{text} ± {summed.deviation:.{digits}f}"


def gap(name: str, row: str, other: str, key: str) -> str:
    """Returns by how much the mean of a row is above the mean of another, with its sign."""
    column, found = _column(key), read(name)
    means = [render.summarize(_line(found, one), column) for one in (row, other)]
    if means[0] is None or means[1] is None:
        raise SystemExit(f"{name} {row} {other}: expected runs with {key}; got none")
    return f"{means[0].mean - means[1].mean:+.{column.number.digits}f}"


def command(name: str) -> str:
    """Returns the commands of a record as a user gives them, a line each."""
    lines = []
    for given in read(name)["commands"]:
        module, arguments = given.split(" ", 1)
        if not arguments.startswith("--config=configs/digits.py"):
            arguments += " --config.data.data_dir=DATA"
        lines.append(f"python -m thanos_jax.{module} {arguments} --workdir=runs/{name}")
    return "\n".join(lines)


def made(name: str) -> str:
    """Returns what a record was made with: commits, machine, number of runs and hours."""
    found = read(name)
    runs = [one for row in found["rows"] for one in row["runs"]]
    hours = sum(one.get("seconds", one.get("train_seconds", 0.0)) for one in runs) / 3600
    commits = "commit" if len(found["commits"]) == 1 else "commits"
    return (
        f"{commits} {', '.join(found['commits'])}; {found['machine']}; "
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {hours:.2g} hours of training"
    )


def page() -> str:
    """Returns docs/results.md as the records have it."""
    made_of: dict[str, Callable[..., str]] = {
        "table": table,
        "cell": cell,
        "gap": gap,
        "command": command,
        "made": made,
    }

    def filled(match: re.Match[str]) -> str:
        word, *arguments = match[1].split()
        return made_of[word](*arguments)

    source = (RECORDS / "page.in").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (.+?) \}\}", filled, source)


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
    text = page()
    if not asked.check:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        print("docs/results.md is not what docs/results has; write it again")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
