"""The definition of a table as data: variants, axes and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from thanos_jax.errors import ConfigError, require_one_of
from thanos_jax.report import numbers


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      labels: axis -> value, which identify the line; the first axis is the method.
      overrides: config key -> value.
    """

    labels: dict[str, Any]
    overrides: dict[str, Any]


class Column(NamedTuple):
    """A number of every run that the table shows.

    Attributes:
      path: its keys in results.json, joined by dots; `thanos_jax.report.numbers` has its unit.
      title: heading of the column; empty: the title in `thanos_jax.report.numbers`.
      plotted: whether the pictures show it.
    """

    path: str
    title: str = ""
    plotted: bool = True

    @property
    def number(self) -> numbers.Number:
        """The entry of the column in `thanos_jax.report.numbers`."""
        entry = numbers.find(self.path.split("."))
        assert entry, f"{self.path}: expected an entry of thanos_jax.report.numbers"
        return entry

    @property
    def head(self) -> str:
        """The heading of the column."""
        return self.title or self.number.title or self.path.rpartition(".")[2].replace("_", " ")


class Axis(NamedTuple):
    """A setting that is varied.

    Attributes:
      name: heading of the column with its values.
      key: the config key that is set to a value.
      values: the table's own; (): only the config's value.
      at: the value while another axis or none is varied; None: the config's.
      noun: name of the setting in messages; empty: `name`.
      options: word -> config overrides, used instead of the key; {}: values are numbers.
      before: for a key with several numbers, the fixed numbers before the value; None: it has one.
    """

    name: str
    key: str
    values: tuple[Any, ...] = ()
    at: Any = None
    noun: str = ""
    options: Mapping[str, Mapping[str, Any]] = {}
    before: tuple[int, ...] | None = None

    def sets(self, value: Any) -> Mapping[str, Any]:
        """Returns the config overrides of a value."""
        if self.options:
            return self.options[value]
        return {self.key: value if self.before is None else (*self.before, value)}

    def read(self, text: str) -> Any:
        """Parses a value from the command line.

        Raises:
          ConfigError: the text is none of the words of `options`, or not a number.
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


# Seed -> the content of a run's results.json.
Results = Mapping[int, Mapping[str, Any]]


class Table(NamedTuple):
    """The definition of a table: what is varied and what is shown.

    Attributes:
      caption: one sentence.
      variants: name of a method of the table -> its config overrides.
      columns: the numbers shown for every row.
      methods: the variants that are run by default.
      axes: settings to vary for each method, one at a time; or a function of the config.
      grid: every combination of the axes' values is a row, instead of one axis at a time.
      sets: config overrides of every row; variants and axes take precedence.
      once: variants for which no axis is varied.
      baseline: a variant that is always run: once without varying the axes, as the first row, and
        then as the first row of every value. Rows are then ordered by value.
      derived: computes, from the labels and results of all rows, numbers of a run that depend on
        other rows: for each row, seed -> numbers. None: there are none.
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
