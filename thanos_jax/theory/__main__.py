"""The command: python -m thanos_jax.theory --workdir=DIR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from thanos_jax import command

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for theory.json and the pictures.")
_SETTINGS = {
    "seed": flags.DEFINE_integer("seed", 0, "Seed of data and initial weights."),
    "dim": flags.DEFINE_integer("dim", 2000, "Number of directions d; at least 51."),
    "samples": flags.DEFINE_integer("samples", 1000, "Images for descent; a multiple of 8."),
    "augmentations": flags.DEFINE_integer("augmentations", 5, "Augmentations of each image."),
    "suppression_samples": flags.DEFINE_integer(
        "suppression_samples", 1152, "Images for feature suppression; a multiple of 8, best of 384."
    ),
    "narrow": flags.DEFINE_integer("narrow", 3, "Rows of the narrow encoder of descent."),
    "wide": flags.DEFINE_integer("wide", 500, "Rows of the wide encoder of descent."),
    "steps": flags.DEFINE_integer("steps", 400, "Steps of descent with the narrow encoder."),
    "wide_steps": flags.DEFINE_integer("wide_steps", 120, "Steps with the wide encoder."),
    "step_size": flags.DEFINE_float("step_size", 0.05, "Step size of descent."),
    "seeds": flags.DEFINE_integer("seeds", 20, "Seeds for the spread of the peak's step."),
}


def main(argv: Sequence[str]) -> None:
    """Measures, draws, and prints the main numbers."""
    from thanos_jax.theory.experiments import Settings, run  # after --help: jax takes its time

    given: dict[str, Any] = {name: flag.value for name, flag in _SETTINGS.items()}
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
