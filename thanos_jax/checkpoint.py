"""Checkpoints from the command line: what there is, and whether it is undamaged.

    python -m thanos_jax.checkpoint list DIR
    python -m thanos_jax.checkpoint verify DIR [--step=N]

DIR is the workdir of a run, or its checkpoints folder. `verify` reads every file and every array,
needs neither the run's config nor its devices, and ends with exit code 1 if one is damaged. Both
may be used while the run goes on.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from thanos_jax.errors import UserError


def list_lines(folder: pathlib.Path) -> list[str]:
    """Returns a line for each checkpoint: step, size, date, and the metrics saved with it.

    Args:
      folder: of the checkpoints.
    """
    from thanos_jax.train import checkpoint

    lines = []
    for step in checkpoint.steps(folder):
        path = folder / str(step)
        try:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        except FileNotFoundError:
            continue  # the run is removing it
        try:
            contents = checkpoint.read_contents(path)
        except checkpoint.DamagedError as error:
            if not path.exists():
                continue  # likewise
            lines.append(f"{step:>10}  {size / 1e6:>9.3f} MB  DAMAGED: {error}")
            continue
        numbers = " ".join(f"{k}={v:.4g}" for k, v in contents["metrics"].items())
        lines.append(f"{step:>10}  {size / 1e6:>9.3f} MB  {contents['saved']}  {numbers}".rstrip())
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    Args:
      arguments: what follows the command's name; None for the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m thanos_jax.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("list", "verify"))
    parser.add_argument("dir", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--step", type=int, help="only this one; for verify")
    asked = parser.parse_args(arguments)
    if asked.step is not None and asked.action != "verify":
        parser.error("--step is for verify")
    try:
        folder, found = _find(asked.dir, asked.step)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if asked.action == "list":
        print("\n".join(list_lines(folder)))
        return 0
    from thanos_jax.train import checkpoint

    damaged = 0
    for step in found:
        damage = checkpoint.damaged(folder, step)
        if damage and not (folder / str(step)).exists():
            continue  # the run has removed it meanwhile
        print(f"{step}: {'DAMAGED: ' + damage if damage else 'ok'}", flush=True)
        damaged += damage is not None
    return 1 if damaged else 0


def _find(folder: pathlib.Path, step: int | None) -> tuple[pathlib.Path, list[int]]:
    """Returns the folder of the checkpoints, and their steps or the one asked for.

    Raises:
      UserError: there is none.
    """
    from thanos_jax.train import checkpoint

    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    found = checkpoint.steps(folder)
    if not found:
        raise UserError(f"DIR: {folder} holds no checkpoint; expected a workdir of a run")
    if step is not None and step not in found:
        raise UserError(f"--step: expected one of {', '.join(map(str, found))}, got {step}")
    return folder.absolute(), found if step is None else [step]


if __name__ == "__main__":
    import jax

    jax.config.update("jax_platforms", "cpu")  # other devices may be a running training's
    sys.exit(main())
