"""Command that exports the model of a run: weights, a serialized program and a model card.

    python -m thanos_jax.export --workdir=DIR --out=FOLDER

FOLDER/README.md says how to load it with jax, numpy and torch, none of which needs this package.
docs/after_training.md has the details.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from thanos_jax import command

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")
_OUT = flags.DEFINE_string("out", None, "Folder that the model is written to.")
_PART = flags.DEFINE_string(
    "part", None, "Training of the run, representation or classifier; by default the last one."
)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; by default the reported one.")


def main(argv: Sequence[str]) -> None:
    """Exports a model and prints the names of its files."""
    from thanos_jax.trained import exports  # not before --help: jax is slow to import
    from thanos_jax.trained.loading import load

    run, out = (pathlib.Path(str(flag.value)).expanduser() for flag in (_WORKDIR, _OUT))
    model = load(run, step=_STEP.value, part=_PART.value)
    for name in exports.export(model, out, exports.results_of(run, model)):
        print(f"{(out / name).stat().st_size:>12,} bytes  {out / name}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "out"])
    command.start(main)
