"""Writes the pages of results from their sources and the records beside them; see results.py.

docs/results/NAME.in is the source of the page NAME in docs. A source has these placeholders for the
content of records:

    {{ command NAME }}             the commands, one on each line
    {{ made NAME }}                commits, machine, number of runs, hours
    {{ table NAME }}               the table without seconds, since the machine may have been shared
    {{ cell NAME ROW KEY }}        one cell of the table; KEY is a key of results.json
    {{ gap NAME ROW OTHER KEY }}   the mean of ROW less the mean of OTHER
    {{ highest NAME ROW KEY }}     the highest mean along training, and its epoch

ROW is the folder of the row, "run" for a single run.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from thanos_jax import config as schema
from thanos_jax.report import numbers
from thanos_jax.tables import render, summary
from thanos_jax.tables.lines import Comparison, Line, along_training, summarize
from thanos_jax.tables.table import Column, Row

RECORDS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "results"
PICTURES = RECORDS.parent / "pictures"


def read(name: str) -> dict[str, Any]:
    """Returns a record.

    Raises:
      SystemExit: there is no record of this name; the message lists the existing names.
    """
    path = RECORDS / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in RECORDS.glob("*.json")))
        raise SystemExit(f"record: expected one of {known}; got {name!r}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def comparison(found: dict[str, Any]) -> Comparison:
    """Returns the table of a record, as `thanos_jax.compare` makes it."""
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
    """Returns mean ± deviation over a row's runs, or the number of a single run."""
    column = _column(key)
    summed = summarize(_line(read(name), row), column)
    if summed is None:
        raise SystemExit(f"{name} {row}: expected runs with {key}; got none")
    digits = column.number.digits
    text = f"{summed.mean:.{digits}f}"
    return text if summed.deviation is None else f"{text} ± {summed.deviation:.{digits}f}"


def gap(name: str, row: str, other: str, key: str) -> str:
    """Returns the mean of a row less the mean of another, with its sign."""
    column, found = _column(key), read(name)
    means = [summarize(_line(found, one), column) for one in (row, other)]
    if means[0] is None or means[1] is None:
        raise SystemExit(f"{name} {row} {other}: expected runs with {key}; got none")
    return f"{means[0].mean - means[1].mean:+.{column.number.digits}f}"


def highest(name: str, row: str, key: str) -> str:
    """Returns the highest mean over a row's runs along training, with deviation and epoch.

    Raises:
      SystemExit: the row has fewer than two runs that were measured along training.
    """
    number, curves = _column(key).number, along_training(_line(read(name), row))
    if len(curves.get(key, ())) < 2:
        raise SystemExit(f"{name} {row}: expected two runs or more with {key} along training")
    values = number.scale * curves[key]
    at = int(values.mean(axis=0).argmax())
    mean, deviation = values[:, at].mean(), values[:, at].std(ddof=1)
    return (
        f"{mean:.{number.digits}f} ± {deviation:.{number.digits}f} after {curves['epoch'][at]:.1f} "
        "epochs"
    )


def command(name: str) -> str:
    """Returns the commands of a record as a user types them, one on each line."""
    lines = []
    for given in read(name)["commands"]:
        module, arguments = given.split(" ", 1)
        if not arguments.startswith("--config=configs/digits.py"):
            arguments += " --config.data.data_dir=DATA"
        arguments = re.sub(r"--config=configs/(\w+)\.py", r"--config=\1", arguments)
        word = "train" if module == "main" else module
        lines.append(f"thanos-jax {word} {arguments} --workdir=runs/{name}")
    return "\n".join(lines)


def made(name: str) -> str:
    """Returns how a record was made: commits, machine, number of runs and hours."""
    found = read(name)
    runs = [one for row in found["rows"] for one in row["runs"]]
    hours = sum(one["train_seconds"] for one in runs) / 3600
    commits = "commit" if len(found["commits"]) == 1 else "commits"
    return (
        f"{commits} {', '.join(found['commits'])}; {found['machine']}; "
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {hours:.1f} hours of training"
    )


def pages() -> dict[str, str]:
    """Returns the text of each page of results, by its name."""
    return {path.stem: _filled(path) for path in sorted(RECORDS.glob("*.in"))}


def _filled(path: pathlib.Path) -> str:
    made_of: dict[str, Callable[..., str]] = {
        "table": table,
        "cell": cell,
        "gap": gap,
        "highest": highest,
        "command": command,
        "made": made,
    }

    def fill(match: re.Match[str]) -> str:
        word, *arguments = match[1].split()
        try:
            return made_of[word](*arguments)
        except (KeyError, TypeError):
            known = ", ".join(f"{one}{inspect.signature(made_of[one])}" for one in made_of)
            raise SystemExit(f"{path.name}: expected one of {known}; got {match[0]}") from None

    return re.sub(r"\{\{ (.+?) \}\}", fill, path.read_text(encoding="utf-8"))
