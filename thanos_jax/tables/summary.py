"""Summarizes the runs of a table beside the papers' numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from thanos_jax import config as schema
from thanos_jax.tables import papers
from thanos_jax.tables.definitions import TABLES
from thanos_jax.tables.lines import Comparison, Line
from thanos_jax.tables.rows import configured
from thanos_jax.tables.table import Results, Row


class Entry(NamedTuple):
    """A row of the table in a folder; its runs have the seeds 0 .. seeds - 1."""

    row: Row
    seeds: int
    results: dict[int, dict[str, Any]]
    errors: dict[int, str]


def comparison(
    table: str, config: ml_collections.ConfigDict, entries: Mapping[str, Entry]
) -> Comparison:
    """Returns a table with the results so far.

    Args:
      table: a key of `TABLES`.
      config: the config that rows override.
      entries: folder of a row -> the row and its runs, in order.
    """
    known = TABLES[table]
    further: list[Results] = [{} for _ in entries]
    if known.derived:
        further = known.derived([(entry.row.labels, entry.results) for entry in entries.values()])
    lines = []
    for (name, entry), more in zip(entries.items(), further, strict=True):
        results = {seed: {**run, **more.get(seed, {})} for seed, run in entry.results.items()}
        reported = papers.reported(table, schema.flatten(configured(config, entry.row, 0)))
        lines.append(Line(entry.row.labels, results, entry.errors, reported, name))
    begun = (line for line in lines if line.results or line.errors)
    cited = dict.fromkeys(number.paper for line in begun for number in line.reported.values())
    remark = papers.REMARKS.get(table, {}).get(config.data.name)
    return Comparison(
        caption=f"{known.caption} ({config.data.name})",
        columns=known.columns,
        lines=lines,
        notes=[
            _made_on(config, list(entries.values())),
            *(f"{paper}: {papers.PAPERS[paper]}." for paper in cited),
            *([remark] if remark else []),
        ],
    )


def _made_on(config: ml_collections.ConfigDict, entries: Sequence[Entry]) -> str:
    """Returns a note on units, data, model, seeds and devices, without settings that rows vary."""
    varied = {key for entry in entries for key in entry.row.overrides}
    results = [result for entry in entries for result in entry.results.values()]
    seeds = sorted({seed for entry in entries for seed in entry.results})

    def every(key: str) -> str:
        found = (schema.flatten(result).get(key) for result in results)
        return " and ".join(dict.fromkeys(str(value or "unknown") for value in found)) or "unknown"

    data = [
        f", {key.removeprefix('data.')} {value}"
        for key, value in schema.flatten(config).items()
        if key.startswith("data.")
        and key not in {*papers.SAME_DATA, *varied}
        and value != schema.FIELDS[key].default
    ]
    encoder = f"encoder {config.model.encoder}"
    if encoder.startswith("encoder resnet") and "model.resnet.width" not in varied:
        encoder += f" of width {config.model.resnet.width}"
    encoder += ", from weights of a file" if config.model.weights else ""
    limit = f", at most {config.train.max_steps} steps" if config.train.max_steps else ""
    facts = [
        f"data {config.data.name}{''.join(data)}",
        f"{encoder}, arrangement {config.model.arrangement}",
        f"{config.train.epochs:g} epochs{limit}, batch {config.train.batch_size}",
        f"seeds {', '.join(map(str, seeds)) or 'none yet'}",
        f"{every('devices')}, jax {every('versions.jax')}, "
        f"thanos_jax {every('versions.thanos_jax')}",
    ]
    return (
        "Mean ± sample standard deviation over a row's runs; accuracies in per cent. "
        + f"Made on: {'; '.join(facts)}."
    )
