"""Lists and verifies the checkpoints in a folder, also while the run is in progress."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from thanos_jax.errors import UserError
from thanos_jax.train import checkpoint


def find(folder: pathlib.Path, step: int | None = None) -> tuple[pathlib.Path, list[int]]:
    """Returns the folder of the checkpoints, and their steps or the given one.

    Args:
      folder: the workdir of a run, or its checkpoints folder.
      step: a step; None: all steps.

    Raises:
      UserError: there is no checkpoint, or none of this step.
    """
    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    found = checkpoint.steps(folder)
    if not found:
        raise UserError(f"DIR: {folder} holds no checkpoint; expected a workdir of a run")
    if step is not None and step not in found:
        raise UserError(f"--step: expected one of {', '.join(map(str, found))}, got {step}")
    return folder.absolute(), found if step is None else [step]


def listed(folder: pathlib.Path, steps: Sequence[int]) -> Iterator[str]:
    """Yields a line for each checkpoint: step, size, date, and the metrics saved with it."""
    for step in steps:
        path = folder / str(step)
        try:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            contents = checkpoint.read_contents(path)
            numbers = " ".join(f"{k}={v:.4g}" for k, v in contents["metrics"].items())
            words = f"{contents['saved']}  {numbers}".rstrip()
        except FileNotFoundError:
            continue  # the run is removing it
        except checkpoint.DamagedError as error:
            if not path.exists():
                continue  # the run has removed it
            words = f"DAMAGED: {error}"
        yield f"{step:>10}  {size / 1e6:>9.3f} MB  {words}"


def verified(folder: pathlib.Path, steps: Sequence[int]) -> Iterator[tuple[int, str | None]]:
    """Reads each checkpoint in full; yields its step and a description of its damage, or None."""
    for step in steps:
        damage = checkpoint.damaged(folder, step)
        if damage is None or (folder / str(step)).exists():  # else the run has removed it
            yield step, damage
