"""Runs the rows of a table, each with several seeds, and writes the table of results."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from thanos_jax import config as schema
from thanos_jax import interruption, resume
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.data.dataset import Dataset
from thanos_jax.errors import ConfigError
from thanos_jax.report import folder as report_folder
from thanos_jax.report import side_by_side
from thanos_jax.tables import figures, render, summary
from thanos_jax.tables.lines import name_of
from thanos_jax.tables.rows import configured, folder_name, rows_of
from thanos_jax.tables.summary import Entry
from thanos_jax.tables.table import Row
from thanos_jax.workdir import PICTURES, locked, write_atomically, writing


class Outcome(NamedTuple):
    """The outcome of a comparison.

    Attributes:
      text: the table, in Markdown.
      failures: folder of a run, relative to the comparison's -> why it failed.
      runs: the number of runs asked for, including runs done before.
    """

    text: str
    failures: dict[str, str]
    runs: int


def compare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    table: str = "coarse_to_fine",
    methods: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
    seeds: int = 3,
    of_method: Callable[[str], Mapping[str, Any]] | None = None,
) -> Outcome:
    """Does the runs of a table that are missing, each in workdir/ROW/SEED, and writes the table.

    A run that fails leaves its traceback in error.txt and does not stop the others; the next call
    tries it again.

    Args:
      config: of any method; rows and seeds override its keys.
      workdir: gets the runs, table.json (which table this is), table.md, table.csv, table.html,
        its pictures as PNG, maps.html, runs.csv and results.json. It may hold the same table with
        other rows and seeds, which are kept.
      table: a key of `thanos_jax.tables.definitions.TABLES`.
      methods: variants of the table; None: the table's own.
      values: of the table's first axis, as text; None: the table's own.
      seeds: number of seeds: 0 .. seeds - 1 are run.
      of_method: method of the config -> overrides for its rows; the table's own take precedence.

    Returns:
      The table of everything in the folder, and the failures of this call.

    Raises:
      ConfigError: before the first run: a table, method, value or config that cannot be run, or a
        folder of another table or config.
      WorkdirError: another comparison is running in the folder, or it cannot be written.
      Interrupted: a signal asked to stop; the current run is saved, and no other is begun.
    """
    rows = rows_of(table, config, methods, values, of_method=of_method)
    for row in rows:
        schema.check(configured(config, row, 0))
    asked = [folder_name(row) for row in rows]
    failures: dict[str, str] = {}
    load = _remembering(sources.load)
    writes = jax.process_index() == 0
    if writes:
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
    lock = locked(workdir) if writes else contextlib.nullcontext()
    with interruption.watch() as watch, lock:
        entries = _claim(workdir, table, config, rows, seeds)
        for seed, name in itertools.product(range(seeds), asked):
            entry, folder = entries[name], workdir / name / str(seed)
            if seed in entry.results:
                print(f"== {name}, seed {seed}: done before", flush=True)
                continue
            print(f"== {name}, seed {seed}", flush=True)
            entry.errors.pop(seed, None)
            try:
                result = run_module.run(configured(config, entry.row, seed), folder, load=load)
            except Exception as error:  # one run failed; the others may succeed
                message = f"{type(error).__name__}: {error}"
                print(f"failed: {name}, seed {seed}: {message}", flush=True)
                if writes:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
                entry.errors[seed] = failures[f"{name}/{seed}"] = message
                # Stop here if the run could not stop in good order, or if there are several
                # processes: the others may not have failed.
                if watch.received or jax.process_count() > 1:
                    raise
                load = _remembering(sources.load)  # the cached data may be damaged
            else:
                if writes:
                    (folder / "error.txt").unlink(missing_ok=True)
                entry.results[seed] = result
            jax.clear_caches()  # the next run compiles its own programs
            # Written after every run, so that an interrupted comparison shows its results so far.
            if writes:
                _write(workdir, table, config, entries, page=seed in entry.errors)
    text = _write(workdir, table, config, entries, page=True) if writes else ""
    return Outcome(text, failures, seeds * len(asked))


def _remembering(load: Callable[[Any], Dataset]) -> Callable[[Any], Dataset]:
    """Returns `load` with a cache of the last data set, because most rows train on the same."""
    kept: dict[str, Dataset] = {}

    def remembered(data: ml_collections.ConfigDict) -> Dataset:
        # Random bits are added on the device, not by `load`.
        settings = {k: v for k, v in data.items() if not k.startswith("random_bits")}
        key = json.dumps(settings, sort_keys=True)
        if key not in kept:
            kept.clear()  # before loading: two may not fit in memory
            kept[key] = load(data)
        return kept[key]

    return remembered


def _claim(
    workdir: pathlib.Path,
    table: str,
    config: ml_collections.ConfigDict,
    rows: Sequence[Row],
    seeds: int,
) -> dict[str, Entry]:
    """Claims the folder for this table; returns all of its rows, with their results so far.

    Raises:
      ConfigError: the folder belongs to another table or a single run, or its runs have another
        config.
    """
    path = workdir / "table.json"
    before: dict[str, Any] = {"table": table, "rows": []}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    elif (workdir / "config.json").exists():
        raise ConfigError(f"workdir: {workdir} holds a single run; choose another folder")
    if before["table"] != table:
        raise ConfigError(
            f"workdir: {workdir} holds the table {before['table']!r}, and this is {table!r}; "
            "choose another folder"
        )
    wanted = {folder_name(row): Entry(row, seeds, {}, {}) for row in rows}
    there = {
        known["folder"]: Entry(
            Row(known["labels"], _tuples(known["overrides"])), known["seeds"], {}, {}
        )
        for known in before["rows"]
    }
    for name in wanted.keys() & there.keys():
        now, then = wanted[name].row.overrides, there[name].row.overrides
        if now != then:
            differing = [
                f"  {key}: {then.get(key)!r} there, {now.get(key)!r} now"
                for key in sorted(now.keys() | then.keys())
                if now.get(key) != then.get(key)
            ]
            raise ConfigError(
                f"workdir: {workdir} has another row {name}; choose another folder:\n"
                + "\n".join(differing)
            )
    # A command that names all rows decides their order; otherwise new rows are added at the end.
    order = list(wanted) if there.keys() <= wanted.keys() else list({**there, **wanted})
    entries = {}
    for name in order:
        count = max(known[name].seeds for known in (wanted, there) if name in known)
        entry = entries[name] = (wanted.get(name) or there[name])._replace(seeds=count)
        for seed in range(count):
            folder = workdir / name / str(seed)
            # Rows of earlier commands too: one table has one config.
            resume.same_run(folder, configured(config, entry.row, seed))
            if (folder / "results.json").exists():
                text = (folder / "results.json").read_text(encoding="utf-8")
                entry.results[seed] = json.loads(text)
            elif (folder / "error.txt").exists():
                entry.errors[seed] = f"see {name}/{seed}/error.txt"
    definition = [
        {"folder": name, **entry.row._asdict(), "seeds": entry.seeds}
        for name, entry in entries.items()
    ]
    if jax.process_index() == 0:
        with writing(workdir):
            text = json.dumps({"table": table, "rows": definition}, indent=2)
            write_atomically(path, text + "\n")
    return entries


def _tuples(overrides: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no tuples, and configs no lists.
    return {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}


def _maps_beside(workdir: pathlib.Path, entries: Mapping[str, Entry]) -> str:
    """Writes the page with the maps of each row's first seed; returns its name, or "" if none."""
    folders = {
        name_of(entry.row.labels): workdir / name / "0"
        for name, entry in entries.items()
        if 0 in entry.results and (workdir / name / "0" / PICTURES).exists()
    }
    if len(folders) < 2:
        return ""
    runs = {title: report_folder.read(folder) for title, folder in folders.items()}
    side_by_side.write(workdir / "maps.html", runs)
    return "maps.html"


def _write(
    workdir: pathlib.Path,
    table: str,
    config: ml_collections.ConfigDict,
    entries: Mapping[str, Entry],
    *,
    page: bool,
) -> str:
    """Writes the table in all formats, the page only if asked for; returns the Markdown."""
    shown = summary.comparison(table, config, entries)
    everything = [
        {"row": dict(line.labels), "folder": f"{name}/{seed}", **result}
        for name, line in zip(entries, shown.lines, strict=True)
        for seed, result in sorted(line.results.items())
    ]
    files = {
        "table.md": render.markdown(shown),
        "table.csv": render.summary_csv(shown),
        "runs.csv": render.runs_csv(shown),
        "results.json": json.dumps(everything, indent=2) + "\n",
    }
    drawn = figures.draw(shown) if page else {}
    if page:
        beside = _maps_beside(workdir, entries)
        files["table.html"] = render.page(shown, drawn, beside=beside)
    for name, text in files.items():
        write_atomically(workdir / name, text)
    for name, figure in drawn.items():
        # For use in other documents; the page embeds its own copy.
        file = workdir / f"{name.lower().replace(' ', '_')}.png"
        figure.savefig(file, dpi=150, facecolor="white")
    return files["table.md"]
