"""Command that lists the checkpoints of a run or checks them for damage.

    python -m thanos_jax.checkpoint list DIR
    python -m thanos_jax.checkpoint verify DIR [--step=N]

DIR is the workdir of a run, or its checkpoints folder. `verify` reads every file and every array,
and ends with exit code 1 if a checkpoint is damaged. It needs neither the run's config nor its
devices. Both actions may be used while the run is in progress.
"""

from __future__ import annotations

import argparse
import os
import pathlib

from thanos_jax import command

# argparse, because absl has no positional arguments.
PARSER = command.Parser(
    prog="python -m thanos_jax.checkpoint",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
PARSER.add_argument("action", choices=("list", "verify"))
PARSER.add_argument("dir", metavar="DIR", type=pathlib.Path)
PARSER.add_argument("--step", type=int, help="verify this checkpoint only")


def main(asked: argparse.Namespace) -> int:
    """Lists or verifies checkpoints; returns the exit code."""
    if asked.step is not None and asked.action != "verify":
        PARSER.error("--step: expected with verify only")
    from thanos_jax.train import inspection  # not before --help: jax is slow to import

    folder, steps = inspection.find(asked.dir, asked.step)
    if asked.action == "list":
        print("\n".join(inspection.listed(folder, steps)))
        return 0
    damaged = False
    for step, damage in inspection.verified(folder, steps):
        print(f"{step}: {'DAMAGED: ' + damage if damage else 'ok'}", flush=True)
        damaged |= damage is not None
    return int(damaged)


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # a running training may hold the other devices
    command.start(main, PARSER)
