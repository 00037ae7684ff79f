r"""Command that runs a table of the papers: every row with several seeds, then the table.

    python -m thanos_jax.compare --config=configs/NAME.py[:,PRESET] --workdir=DIR \
        [--table=coarse_to_fine] [--methods=ce,thanos] [--values=0,0.5,1] [--seeds=3] \
        [--config.KEY=VALUE ...]

--dataset=NAME and --config=NAME stand for --config=configs/NAME.py. Every run is in DIR/ROW/SEED.
DIR also has the table as table.md, table.html (with links to the reports and to maps.html, the maps
of the first seed of each row side by side), table.csv (a line per row), runs.csv (a line per run)
and results.json. The same command runs what is missing; a command with more methods, values or
seeds adds them to the table.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from thanos_jax import command, processes
from thanos_jax.config import presets
from thanos_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration, a Python file (it is run).", lock_config=True
)
flags.DEFINE_string("dataset", None, "Another name of --config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs and of the table.")
_TABLE = flags.DEFINE_string(
    "table",
    "coarse_to_fine",
    "Name of a table in thanos_jax/tables/definitions.py; an unknown name lists all.",
)
_METHODS = flags.DEFINE_list("methods", None, "Methods to compare; by default the table's.")
_VALUES = flags.DEFINE_list(
    "values", None, "Values of the table's first axis; by default the table's."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each row.", lower_bound=1)


class RunError(UserError):
    """Some runs of a comparison failed; the others are in the table."""


def main(argv: Sequence[str]) -> None:
    """Runs the comparison and prints its table.

    Raises:
      RunError: a run failed; raised after all others, and names the failed runs and their errors.
    """
    processes.join()
    from thanos_jax.tables.comparison import compare  # not before --help: jax is slow to import

    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    given = config_flags.get_override_values(flags.FLAGS["config"])
    of_method = presets.of_method(file, _CONFIG.value)

    workdir = pathlib.Path(str(_WORKDIR.value))
    outcome = compare(
        _CONFIG.value,
        workdir,
        table=_TABLE.value,
        methods=_METHODS.value or None,
        values=_VALUES.value or None,
        seeds=_SEEDS.value,
        # Keys set on the command line apply to every row.
        of_method=lambda name: {k: v for k, v in of_method(name).items() if k not in given},
    )
    print(f"\n{outcome.text}\n{workdir / 'table.html'}", flush=True)
    if outcome.failures:
        alike: dict[str, list[str]] = {}
        for name, message in outcome.failures.items():
            alike.setdefault(message, []).append(name)
        raise RunError(
            f"{len(outcome.failures)} of {outcome.runs} runs failed; the same command tries them "
            f"again. Tracebacks are in error.txt of their folders in {workdir}:\n"
            + "\n".join(f"  {', '.join(names)}: {message}" for message, names in alike.items())
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command.start(main)
