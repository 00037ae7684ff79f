"""Stores the content of a run's report in its folder, to make the report again without the data."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from thanos_jax import config as schema
from thanos_jax import workdir
from thanos_jax.errors import ConfigError
from thanos_jax.report import html, image_map
from thanos_jax.report.image_map import ImageMap


class Reported(NamedTuple):
    """The content of a run's report; arguments of `html.write`.

    Attributes:
      config: the run's config, nested.
      results: the content of results.json, without the curves.
      records: the last line of the log only.
      figures: title -> (HTML, how to read it).
      image_map: map of the run's images; None: there is none.
    """

    config: dict[str, Any]
    results: dict[str, Any]
    records: list[dict[str, Any]]
    figures: dict[str, tuple[str, str]]
    image_map: ImageMap | None


def shown(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results without the curves, which are drawn."""
    return {key: value for key, value in results.items() if key != "along_training"}


def keep(
    folder: pathlib.Path,
    figures: html.Pictures,
    records: Sequence[Mapping[str, Any]],
    found: ImageMap | None,
) -> dict[str, tuple[str, str]]:
    """Writes map.npz and pictures.json into a run's folder; returns the pictures as HTML.

    Raises:
      WorkdirError: a file cannot be written.
    """
    pictures = html.drawn(figures)
    with workdir.writing(folder):
        if found is not None:
            image_map.write(folder / workdir.MAP, found)
        text = json.dumps({"figures": pictures, "records": records[-1:]})
        workdir.write_atomically(folder / workdir.PICTURES, text + "\n")
    return pictures


def read(folder: pathlib.Path) -> Reported:
    """Reads the content of a finished run's report from its folder.

    Raises:
      ConfigError: the folder holds no finished run, or no pictures.json.
      WorkdirError: map.npz is damaged.
    """
    for name in ("config.json", "results.json", workdir.PICTURES):
        if not (folder / name).is_file():
            raise ConfigError(
                f"report: expected the folder of a finished run, got {folder}, which has no {name}"
            )
    results, pictures = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("results.json", workdir.PICTURES)
    )
    path = folder / workdir.MAP
    return Reported(
        schema.read(folder / "config.json").to_dict(),
        shown(results),
        pictures["records"],
        {name: (ready, sentence) for name, (ready, sentence) in pictures["figures"].items()},
        image_map.read(path) if path.exists() else None,
    )
