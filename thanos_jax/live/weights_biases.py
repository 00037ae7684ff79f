"""Logs a run to Weights & Biases by its package wandb, which reads WANDB_MODE, WANDB_PROJECT etc.

wandb.json keeps the id of the W&B run and the last step written for each training, so that no step
is written twice. Each training has its own axis of steps.
"""

from __future__ import annotations

import json
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax.live.contract import Backend, Ending, Logger, terms
from thanos_jax.workdir import WANDB_STATE, write_atomically

_PROJECT = "thanos_jax"


def _load() -> Any:
    import wandb

    return wandb


def _open(folder: pathlib.Path, config: Mapping[str, Any]) -> Logger:
    """Starts or resumes the W&B run; arguments of `Backend.open`."""
    import wandb

    path = folder / WANDB_STATE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    identity, written = known.get("id", uuid.uuid4().hex[:8]), dict(known.get("written", {}))
    run: Any = wandb.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        name=os.environ.get("WANDB_NAME", folder.name),
        id=identity,
        resume="allow",
        dir=str(folder),
        config=dict(config),
        settings=wandb.Settings(console="off"),  # the terminal stays as it is
    )
    defined = set()

    def log(training: str, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes named values of a step, unless it or a later one has been written."""
        prefix = training or "train"
        if step <= written.get(f"{prefix}/{kind}", -1):
            return
        if prefix not in defined:
            run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
            defined.add(prefix)
        written[f"{prefix}/{kind}"] = step
        # Stored before logging: a run that is killed in between lacks a step, but repeats none.
        write_atomically(path, json.dumps({"id": identity, "written": written}) + "\n")
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        run.log({f"{prefix}/step": step, **named})

    def scalars(training: str, record: Mapping[str, Any], when: float) -> None:
        log(training, "scalars", record["step"], terms(record))

    def images(training: str, step: int, named: Mapping[str, np.ndarray]) -> None:
        for name, picture in named.items():
            log(training, name, step, {name: wandb.Image(picture)})

    def finish(ending: Ending | None) -> None:
        if ending is not None:
            run.summary.update({f"results/{name}": v for name, v in ending.results.items()})
            points = ending.points
            if points is not None:
                dimensions = [f"dimension {k}" for k in range(points.embedding.shape[1])]
                texts = zip(*(column.tolist() for column in points.columns.values()), strict=True)
                data = [
                    [*text, *row]
                    for text, row in zip(texts, points.embedding.tolist(), strict=True)
                ]
                table = wandb.Table(columns=[*points.columns, *dimensions], data=data)
                log("results", "embedding", ending.step, {"embedding": table})
        run.finish(exit_code=0 if ending is not None else 1)  # stopped early, or failed

    return Logger(scalars, images, finish)


BACKEND = Backend("wandb", _load, _open)
