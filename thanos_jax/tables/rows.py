"""The rows of a table, and the config and the folder of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from thanos_jax import config as schema
from thanos_jax.errors import ConfigError, require_one_of
from thanos_jax.tables.definitions import TABLES
from thanos_jax.tables.table import Axis, Row


def rows_of(
    name: str,
    config: ml_collections.ConfigDict,
    methods: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
) -> list[Row]:
    """Returns the rows of a table.

    Args:
      name: a key of `TABLES`.
      config: what the rows override.
      methods: variants of the table; None for its own.
      values: of the table's first axis, as written on the command line; None for its own.

    Raises:
      ConfigError: a name, method or value that does not fit, or a config without a key of the rows.
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
    points = [] if axes else [()]
    for place, axis in enumerate(axes):
        varied = _values(axis, known, None if place else values)
        points += [(*away[:place], value, *away[place + 1 :]) for value in varied]
    chosen = methods or table.methods
    pairs = [
        (method, point)
        for method in chosen
        for point in ([away] if method in table.once else points)
    ]
    if table.baseline:
        every = [(method, point) for point in points for method in (table.baseline, *chosen)]
        pairs = [(table.baseline, away), *every]
    names = [axis.name for axis in axes]
    rows = []
    for method, point in dict.fromkeys(pairs):
        overrides = {**table.sets, **table.variants[method]}
        for axis, value in zip(axes, point, strict=True):
            overrides.update(_overrides(axis, value))
        rows.append(Row({"method": method, **dict(zip(names, point, strict=True))}, overrides))
    folders = [folder_name(row) for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        for key in row.overrides:
            if key not in known:
                raise ConfigError(f"table {name}: the config has no key {key}")
        if folders.count(folder) > 1:
            raise ConfigError(f"table {name}: two rows are called {folder!r}")
    return rows


def _values(axis: Axis, known: dict[str, Any], texts: Sequence[str] | None) -> Sequence[Any]:
    """The values of an axis: as written, the table's own, or the config's.

    Raises:
      ConfigError: a text that is none of its words, or no number.
    """
    if texts is None:
        return (known[axis.key],) if axis.values is None else axis.values
    if axis.options:
        for text in texts:
            require_one_of("values", text, tuple(axis.options))
        return texts
    assert axis.values
    kind, found = type(axis.values[0]), []
    for text in texts:
        try:
            found.append(kind(text))
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise ConfigError(
                f"values: expected {words} for each {axis.noun or axis.name}, got {text!r}"
            ) from None
    return found


def _overrides(axis: Axis, value: Any) -> dict[str, Any]:
    if axis.options:
        return dict(axis.options[value])
    return {axis.key: value if axis.before is None else (*axis.before, value)}


def folder_name(row: Row) -> str:
    """Returns the row's name as a folder: the method, then each setting and its value."""
    method, *settings = row.labels.items()
    parts = [shown(method[1]), *(f"{axis}_{shown(value)}" for axis, value in settings)]
    return re.sub(r"[^\w.+-]+", "_", "_".join(parts))


def shown(value: Any) -> str:
    """Returns a label's value as people write it: 0.5, 1, crop."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def configured(config: ml_collections.ConfigDict, row: Row, seed: int) -> ml_collections.ConfigDict:
    """Returns a copy of the config with what a row and a seed set."""
    one = config.copy_and_resolve_references()
    one.update_from_flattened_dict({**row.overrides, "seed": seed})
    return one
