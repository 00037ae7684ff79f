"""Files of embeddings, with the same columns as .npz or as .parquet (an extra).

    filename      str [n]
    embedding     float32 [n, d]
    prediction    str [n], the most probable class
    probability   float32 [n], of that class
    skipped       str [s], the images that could not be read (parquet: in the schema's metadata)
    root          str, the folder below which the files are; "" for none (there too)
    model         str, the fingerprint of the model (there too)

`read` returns either as a `Table`.
"""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from thanos_jax import workdir
from thanos_jax.errors import MissingDependencyError, UserError

FORMATS = ("npz", "parquet")


class TableError(UserError, ValueError):
    """A file that does not hold embeddings, or cannot be used."""


class Table(NamedTuple):
    """Embeddings and predictions of images; see the module for shapes and dtypes."""

    filename: np.ndarray
    embedding: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    skipped: np.ndarray
    root: str = ""
    model: str = ""


def require(form: str) -> None:
    """Raises MissingDependencyError if the package for a file format is not installed."""
    if form == "parquet":
        _parquet()


def _parquet() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"files that end in .parquet need pyarrow: {error}. Install it with: "
            "pip install '.[parquet]' in the project's folder, or write .npz"
        ) from error
    return pyarrow


def write(path: pathlib.Path, table: Table) -> None:
    """Writes embeddings atomically to a file.

    Args:
      path: ends in .npz or .parquet.
      table: the content.

    Raises:
      WorkdirError: the file cannot be written.
      MissingDependencyError: pyarrow is not installed.
    """
    with workdir.writing(path.parent):
        if path.suffix == ".npz":
            workdir.write_arrays(path, table._asdict())
            return
        arrow = _parquet()
        width = table.embedding.shape[1]
        flat = arrow.array(table.embedding.reshape(-1))
        columns = {
            "filename": arrow.array(table.filename.tolist(), arrow.string()),
            "embedding": arrow.FixedSizeListArray.from_arrays(flat, width),
            "prediction": arrow.array(table.prediction.tolist(), arrow.string()),
            "probability": arrow.array(table.probability),
        }
        facts = {
            "skipped": json.dumps(table.skipped.tolist()), "root": table.root, "model": table.model
        }  # fmt: skip
        stored = arrow.table(columns).replace_schema_metadata(facts)
        temporary = path.with_name(path.name + ".tmp")
        arrow.parquet.write_table(stored, temporary)
        os.replace(temporary, path)


def read(path: str | os.PathLike[str]) -> Table:
    """Reads a file that `write` wrote.

    Raises:
      TableError: the file does not exist, or does not hold embeddings.
      MissingDependencyError: pyarrow is not installed.
    """
    path = pathlib.Path(path)
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_parquet(path)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, MissingDependencyError):
            raise
        raise TableError(f"{path}: expected a file of embeddings: {error}") from error


def _read_npz(path: pathlib.Path) -> Table:
    with np.load(path, allow_pickle=False) as file:
        found: Mapping[str, Any] = {name: file[name] for name in Table._fields}
    return Table(**{**found, "root": str(found["root"]), "model": str(found["model"])})


def _read_parquet(path: pathlib.Path) -> Table:
    found = _parquet().parquet.read_table(path)
    facts = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
    embedding = found.column("embedding").combine_chunks()
    flat = embedding.flatten().to_numpy(zero_copy_only=False)
    return Table(
        np.array(found.column("filename").to_pylist(), np.str_),
        flat.reshape(len(found), embedding.type.list_size),
        np.array(found.column("prediction").to_pylist(), np.str_),
        found.column("probability").to_numpy(),
        np.array(json.loads(facts["skipped"]), np.str_),
        facts["root"],
        facts["model"],
    )


def join(tables: list[Table]) -> Table:
    """Returns the rows of several tables of one model, in their order."""
    return Table(
        filename=np.concatenate([one.filename for one in tables]),
        embedding=np.concatenate([one.embedding for one in tables]),
        prediction=np.concatenate([one.prediction for one in tables]),
        probability=np.concatenate([one.probability for one in tables]),
        skipped=np.concatenate([one.skipped for one in tables]),
        root=tables[0].root,
        model=tables[0].model,
    )
