"""What a table is made of: its variants, its axes and its columns, all data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from thanos_jax.errors import ConfigError, require_one_of
from thanos_jax.report import numbers


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      labels: what tells it from the other lines, by axis; the first axis is the method.
      overrides: config key -> value.
    """

    labels: dict[str, Any]
    overrides: dict[str, Any]


class Column(NamedTuple):
    """A number of every run.

    Attributes:
      path: its keys in results.json, joined by dots; `thanos_jax.report.numbers` has its unit.
      title: for people; empty: its title there.
      plotted: whether the pictures show it.
    """

    path: str
    title: str = ""
    plotted: bool = True

    @property
    def number(self) -> numbers.Number:
        """Its entry."""
        entry = numbers.find(self.path.split("."))
        assert entry, f"{self.path}: expected an entry of thanos_jax.report.numbers"
        return entry

    @property
    def head(self) -> str:
        """What people read above it."""
        return self.title or self.number.title or self.path.rpartition(".")[2].replace("_", " ")


class Axis(NamedTuple):
    """A setting that is varied.

    Attributes:
      name: of the column of its values.
      key: the config key that has the value.
      values: the table's own; () for the config's alone.
      at: the value where another axis is varied, or none; None: the config's.
      noun: what it is called in messages; empty: the name.
      options: word -> what it sets in the config, in place of the key; {}: values are numbers.
      before: where the key has several numbers, those before the value; None: it has one.
    """

    name: str
    key: str
    values: tuple[Any, ...] = ()
    at: Any = None
    noun: str = ""
    options: Mapping[str, Mapping[str, Any]] = {}
    before: tuple[int, ...] | None = None

    def sets(self, value: Any) -> Mapping[str, Any]:
        """What a value sets in the config."""
        if self.options:
            return self.options[value]
        return {self.key: value if self.before is None else (*self.before, value)}

    def read(self, text: str) -> Any:
        """Returns a value as it is written on the command line.

        Raises:
          ConfigError: it is none of the words, or no number.
        """
        if self.options:
            require_one_of("values", text, tuple(self.options))
            return text
        kind = type(self.values[0])
        try:
            return kind(text)
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            noun = self.noun or self.name
            raise ConfigError(f"values: expected {words} for each {noun}, got {text!r}") from None


# Seed -> what a run's results.json holds.
Results = Mapping[int, Mapping[str, Any]]


class Table(NamedTuple):
    """What is varied and what is shown.

    Attributes:
      caption: one sentence.
      variants: name of a method of the table -> what it sets in the config.
      columns: what is shown of every row.
      methods: the variants that are run if none are asked for.
      axes: what is varied for each method, one after the other; or a function of the config.
      grid: whether every combination of the axes' values is a row, instead of one axis at a time.
      sets: what every row sets, where its variant and axes do not.
      once: variants that no axis is varied for.
      baseline: a variant that is run whatever is asked for, without the axes and at every value,
        first; rows then go value by value.
      derived: (labels and results of every row) -> row by row, seed -> further numbers of a run
        that depend on the runs of other rows; None: there are none.
    """

    caption: str
    variants: Mapping[str, Mapping[str, Any]]
    columns: tuple[Column, ...]
    methods: tuple[str, ...]
    axes: tuple[Axis, ...] | Callable[[ml_collections.ConfigDict], tuple[Axis, ...]] = ()
    grid: bool = False
    sets: Mapping[str, Any] = {}
    once: tuple[str, ...] = ()
    baseline: str | None = None
    derived: Callable[[Sequence[tuple[Mapping[str, Any], Results]]], list[Results]] | None = None
