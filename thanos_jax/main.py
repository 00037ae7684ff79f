"""The command: python -m thanos_jax.main --config=configs/NAME.py[:METHOD] --workdir=DIR.

--config=NAME[:METHOD] uses configs/NAME.py of the current folder, or else the config of that name
that comes with the package. launch/ starts the command as several processes. On SIGTERM and SIGINT
it saves and exits; the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from thanos_jax import command, processes
from thanos_jax.report.numbers import NUMBERS

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration, a Python file (it is run).", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same folder resumes.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Removes a run of another config or of other data from the folder and starts again; the same "
    "run still resumes.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Prints what would be run (keys, shapes, parameters, FLOPs, memory, time) and stops. Writes "
    "nothing, and needs no --workdir.",
)


def main(argv: Sequence[str]) -> None:
    """Runs the config and prints its headline results."""
    processes.join()
    from thanos_jax import dry_run, run  # after --help and misspelt flags, because jax is slow

    if _DRY_RUN.value:
        for line in dry_run.describe(_CONFIG.value):
            print(line, flush=True)
        return
    results = run.run(_CONFIG.value, str(_WORKDIR.value), overwrite=_OVERWRITE.value)
    for name, number in NUMBERS.items():
        if number.printed and name in results:  # not every task has all
            print(f"{name}: {results[name]:.4f}")
    print(f"report: {_WORKDIR.value}/report.html")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "dry_run"],
        lambda given: given["workdir"] is not None or given["dry_run"],
        "--workdir: expected a folder, unless with --dry_run; got none",
    )
    command.start(main)
