"""The rows of a table, with the config and the folder of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from thanos_jax import config as schema
from thanos_jax.errors import ConfigError, nearest, require_one_of
from thanos_jax.tables.definitions import TABLES
from thanos_jax.tables.table import Row


def rows_of(
    name: str,
    config: ml_collections.ConfigDict,
    methods: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
    *,
    of_method: Callable[[str], Mapping[str, Any]] | None = None,
) -> list[Row]:
    """Returns the rows of a table.

    Args:
      name: a key of `TABLES`.
      config: the config that rows override.
      methods: variants of the table; None: the table's own.
      values: of the table's first axis, as written on the command line; None: the table's own.
      of_method: method of the config -> overrides for its rows; the table's own take precedence.

    Raises:
      ConfigError: an unknown name, method or value, or a config that lacks a key of the rows or of
        `of_method`.
    """
    require_one_of("table", name, tuple(TABLES))
    table = TABLES[name]
    for method in methods or ():
        require_one_of(f"methods of {name}", method, tuple(table.variants))
    axes = table.axes(config) if callable(table.axes) else table.axes
    if values is not None and not axes:
        raise ConfigError(
            f"values: {name} has no setting to vary, only methods; got {','.join(map(str, values))}"
        )
    known = schema.flatten(config)
    away = tuple(known.get(axis.key) if axis.at is None else axis.at for axis in axes)
    varied = [axis.values or (known[axis.key],) for axis in axes]
    if values is not None:
        varied[0] = tuple(map(axes[0].read, values))
    if table.grid or not axes:
        points = list(itertools.product(*varied))
    else:
        points = [
            (*away[:place], value, *away[place + 1 :])
            for place, one in enumerate(varied)
            for value in one
        ]
    chosen = methods or table.methods
    pairs = [
        (method, point)
        for method in chosen
        for point in ([away] if method in table.once else points)
    ]
    if table.baseline:
        every = [(method, point) for point in points for method in (table.baseline, *chosen)]
        pairs = [(table.baseline, away), *every]
    rows = []
    for method, point in dict.fromkeys(pairs):
        sets = {**table.sets, **table.variants[method]}
        if of_method:
            given = of_method(sets.get("method", config.method))
            for key in given:
                if key not in known:
                    raise ConfigError(
                        f"of_method of the config file: no such key: {key!r}{nearest(key, known)}"
                    )
            sets = {**given, **sets}
        row = Row({"method": method}, sets)
        for axis, value in zip(axes, point, strict=True):
            row.labels[axis.name] = value
            row.overrides.update(axis.sets(value))
        rows.append(row)
    folders = [folder_name(row) for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        for key in row.overrides:
            if key not in known:
                raise ConfigError(f"table {name}: the config has no key {key}")
        if folders.count(folder) > 1:
            raise ConfigError(f"table {name}: two rows are called {folder!r}")
    return rows


def folder_name(row: Row) -> str:
    """Returns the row's name as a folder: the method, then each setting and its value."""
    method, *settings = row.labels.items()
    parts = [shown(method[1]), *(f"{axis}_{shown(value)}" for axis, value in settings)]
    return re.sub(r"[^\w.+-]+", "_", "_".join(parts))


def shown(value: Any) -> str:
    """Returns a label's value as people write it: 0.5, 1, crop."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def configured(config: ml_collections.ConfigDict, row: Row, seed: int) -> ml_collections.ConfigDict:
    """Returns a copy of the config with a row's overrides and a seed."""
    one = config.copy_and_resolve_references()
    one.update_from_flattened_dict({**row.overrides, "seed": seed})
    return one
