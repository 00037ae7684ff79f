"""The command: python -m thanos_jax.main --config=configs/NAME.py[:METHOD] --workdir=DIR."""

from __future__ import annotations

from absl import app, flags
from ml_collections import config_flags

from thanos_jax import logs

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration, a Python file (it is run).", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same folder resumes.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Runs the config, and prints what it found."""
    if len(argv) > 1:
        raise app.UsageError(f"expected only flags, got {argv[1:]}")
    workdir = str(_WORKDIR.value)
    logs.quiet()
    # After the flags are parsed: --help and a misspelt flag should not wait for jax.
    from thanos_jax.config import ConfigError
    from thanos_jax.data.sources import DataError, DatasetNotFound
    from thanos_jax.run import run
    from thanos_jax.train.metrics import NonFiniteError

    try:
        results = run(_CONFIG.value, workdir)
    except (ConfigError, DataError, DatasetNotFound, NonFiniteError) as error:
        raise SystemExit(f"error: {error}") from error
    for name in ("coarse_accuracy", "fine_accuracy", "fine_accuracy_knn", "train_seconds"):
        print(f"{name}: {results[name]:.4f}")
    print(f"report: {workdir}/report.html")


if __name__ == "__main__":
    app.run(main)
