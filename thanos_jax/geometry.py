"""Command that measures the geometry of a run's embeddings in full.

    python -m thanos_jax.geometry --workdir=DIR

It prints and writes to DIR/geometry.json what docs/geometry.md describes: neural collapse with the
classifier, distances between strata, the class-fixing permutation test, and local Lipschitz
constants of encoder and decoder. All are measured on the test images, with the parameters of the
newest checkpoint.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from thanos_jax import command
from thanos_jax.workdir import write_atomically

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")


def main(argv: Sequence[str]) -> None:
    """Measures a run, prints the numbers and writes geometry.json."""
    from thanos_jax import measure  # not before --help: jax is slow to import

    folder = pathlib.Path(str(_WORKDIR.value))
    found = measure.geometry(folder)
    write_atomically(folder / "geometry.json", json.dumps(found, indent=2) + "\n")
    for section, numbers in found.items():
        if section == "strata_distances" or not isinstance(numbers, dict):
            continue
        for name, value in numbers.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            print(f"{section}: {name}: {shown}")
    print(f"and distances between strata: {folder / 'geometry.json'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    command.start(main)
