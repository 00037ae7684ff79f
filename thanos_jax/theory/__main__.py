"""Command that runs the experiments: python -m thanos_jax.theory --workdir=DIR."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from thanos_jax import command
from thanos_jax.theory.experiments import Settings, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for theory.json and the pictures.")
for _field in dataclasses.fields(Settings):
    _define: Any = flags.DEFINE_float if _field.type == "float" else flags.DEFINE_integer
    _define(_field.name, _field.default, _field.metadata["meaning"])


def main(argv: Sequence[str]) -> None:
    """Runs the experiments, draws pictures, and prints the main numbers."""
    given: Any = {name: flags.FLAGS[name].value for name in Settings.__dataclass_fields__}
    found = run(Settings(**given), str(_WORKDIR.value))
    for name, values in found["learned_then_unlearned"].items():
        if "v2_peak" in values:
            print(
                f"{name}: |W v2| peaks at step {values['v2_peak_step']} with "
                f"{values['v2_peak']:.4f} and ends at {values['v2_last']:.1e}; "
                f"|W v1| ends at {values['v1_last']:.4f}"
            )
    for name, values in found["suppression"].items():
        pairs = zip(values["phi_k"], values["unsupervised_v1"], values["joint_v1"], strict=True)
        for phi_k, unsupervised, joint in pairs:
            print(
                f"{name}, phi_k={phi_k:.3f} (threshold {values['threshold']:.3f}): |W v1| is "
                f"{unsupervised:.4f} unsupervised, {joint:.4f} joint"
            )
    print(f"{found['seconds']:.1f} s: {_WORKDIR.value}/theory.json")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    command.start(main)
