"""Runs the model's three experiments and writes theory.json and pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np

from thanos_jax.theory import figures, minimizers, sweeps
from thanos_jax.theory.data import Model, ModelError, check_integer, check_positive, draw
from thanos_jax.theory.descent import descend, initial_weights
from thanos_jax.theory.structure import structure
from thanos_jax.workdir import write_atomically

# Strengths of the irrelevant features divided by the threshold, and betas of the joint loss.
_RATIOS = (0.5, 0.7, 0.85, 0.95, 0.99, 1.01, 1.05, 1.15, 1.3, 1.5)
_BETAS = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
# Numbers of features for narrow encoders, and the strength over the threshold in the sweep of beta:
# 1.1 phi_1 is between phi_1 = 0.8, so that v_1 is suppressed, and phi_2 = 1.
_FEATURES = (3, 50)
_SUPPRESSING = 1.1


def _setting(default: float, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of the command, one per flag; `--help` prints their meanings."""

    seed: int = _setting(0, "Seed of data and initial weights.")
    dim: int = _setting(2000, "Number of directions d; at least 51.")
    samples: int = _setting(1000, "Images for descent; a multiple of 8.")
    augmentations: int = _setting(5, "Augmentations of each image.")
    # 384 = 8 (50 - 2) balances all features exactly.
    suppression_samples: int = _setting(
        1152, "Images for feature suppression; a multiple of 8, best of 384."
    )
    narrow: int = _setting(3, "Rows of the narrow encoder of descent.")
    wide: int = _setting(500, "Rows of the wide encoder of descent.")
    steps: int = _setting(400, "Steps of descent with the narrow encoder.")
    wide_steps: int = _setting(120, "Steps with the wide encoder.")
    step_size: float = _setting(0.05, "Step size of descent.")
    seeds: int = _setting(20, "Seeds for the spread of the peak's step.")


def run(settings: Settings, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs all experiments and writes their results and pictures.

    Args:
      settings: settings of the data and of descent.
      workdir: folder for theory.json, learned_then_unlearned.png, suppression.png and joint.png.

    Returns:
      The contents of theory.json.

    Raises:
      ModelError: a setting is out of range, descent diverged, or workdir is "" or a file.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    started = time.perf_counter()
    _check(settings)
    # An empty path would mean the current folder.
    if not os.fspath(workdir):
        raise ModelError("workdir: expected a folder, got ''")
    folder = pathlib.Path(workdir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"workdir: expected a folder, or none yet, got {folder}: {error}"
        ) from None

    curves, learning = _learning(settings)
    swept, thresholds, suppressed = _suppression(settings)
    betas, joint = _joint(settings)
    found: dict[str, Any] = {
        "settings": dataclasses.asdict(settings),
        "learned_then_unlearned": learning,
        "suppression": suppressed,
        "joint": joint,
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }
    learned = figures.learned_then_unlearned(curves, steps=100)
    learned.savefig(folder / "learned_then_unlearned.png")
    figures.suppression(swept, thresholds).savefig(folder / "suppression.png")
    figures.joint(betas).savefig(folder / "joint.png")
    found["seconds"] = time.perf_counter() - started
    # Written last, so that theory.json exists only if everything does.
    write_atomically(folder / "theory.json", json.dumps(found, indent=2) + "\n")
    return found


def _check(settings: Settings) -> None:
    for name in ("narrow", "wide", "steps", "wide_steps", "seeds"):
        check_integer(name, getattr(settings, name), least=1)
    check_integer("seed", settings.seed, least=0)
    check_integer("dim", settings.dim, least=max(_FEATURES) + 1)
    check_positive("step_size", settings.step_size)
    _learner(settings)
    try:
        _suppressor(settings, min(_FEATURES))
    except ModelError as error:
        raise ModelError(f"suppression_{error}") from None


def _learner(settings: Settings, **changes: Any) -> Model:
    shape = {"augmentations": settings.augmentations, "dim": settings.dim}
    return Model(**{"samples": settings.samples, **shape, **changes})


def _suppressor(settings: Settings, features: int) -> Model:
    samples = settings.suppression_samples
    return _learner(settings, samples=samples, features=features, phi_1=0.8, phi_2=1.0, mu=0.0)


def _descended(settings: Settings, rows: int, steps: int, seed: int, **changes: Any) -> np.ndarray:
    """Returns |W v_k| of every step of supervised descent, [steps + 1, K]."""
    model = _learner(settings, **changes)
    weights = initial_weights(rows, model.dim, seed=seed)
    parts = structure(draw(model, seed), beta=1.0)
    curve = descend(parts, weights, steps=steps, step_size=settings.step_size)
    lengths = np.asarray(curve.lengths)
    if not np.all(np.isfinite(lengths)):
        first = int(np.argmin(np.all(np.isfinite(lengths), axis=1)))
        raise ModelError(
            "step_size: expected one short enough for descent, 0.05 is for the default settings, "
            f"got {settings.step_size}, and W is not finite at step {first}"
        )
    return lengths


def _summary(lengths: np.ndarray) -> dict[str, Any]:
    return {
        "steps": len(lengths) - 1,
        "v2_peak_step": int(np.argmax(lengths[:, 1])),
        "v2_peak": float(np.max(lengths[:, 1])),
        "v2_last": float(lengths[-1, 1]),
        "v1_last": float(lengths[-1, 0]),
    }


def _learning(settings: Settings) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    curves, found = {}, {}
    narrow, seed = (settings.narrow, settings.steps), settings.seed
    for rows, steps in (narrow, (settings.wide, settings.wide_steps)):
        for mu in (1.0, 0.0):
            lengths = _descended(settings, rows, steps, seed, mu=mu)
            curves[f"$p={rows}$, $\\mu={mu:g}$"] = lengths
            found[f"rows={rows}, mu={mu:g}"] = _summary(lengths)
    lengths = _descended(settings, *narrow, seed, noise="all")
    found[f"rows={settings.narrow}, mu=1, noise=all"] = _summary(lengths)

    parts = structure(draw(_learner(settings), seed), beta=1.0)
    weights = minimizers.structured(parts, settings.narrow)
    found["minimizer"] = {f"v{k + 1}": float(np.linalg.norm(weights[:, k])) for k in (0, 1)}
    peaks = [_summary(_descended(settings, *narrow, seed + i)) for i in range(settings.seeds)]
    found["seeds"] = {
        "count": settings.seeds,
        "v2_peak_steps": [peak["v2_peak_step"] for peak in peaks],
        "v2_peaks": [peak["v2_peak"] for peak in peaks],
        "v2_last": [peak["v2_last"] for peak in peaks],
    }
    return curves, found


def _suppression(settings: Settings) -> tuple[dict[str, Any], dict[str, float], dict[str, Any]]:
    swept, thresholds, found = {}, {}, {}
    for features in _FEATURES:
        model = _suppressor(settings, features)
        threshold = sweeps.threshold(model)
        strengths = [ratio * threshold for ratio in _RATIOS]
        lengths = {
            name: sweeps.strength(model, strengths, beta=beta, rows=features, seed=settings.seed)
            for name, beta in (("unsupervised", 0.0), ("joint, $\\beta=0.5$", 0.5))
        }
        title = f"$p=K={features}$"
        swept[title], thresholds[title] = (strengths, lengths), threshold
        unsupervised, joint = lengths.values()
        found[f"features={features}"] = {
            "threshold": threshold,
            "phi_k": strengths,
            "unsupervised_v1": unsupervised[:, 0].tolist(),
            "unsupervised_v2": unsupervised[:, 1].tolist(),
            "joint_v1": joint[:, 0].tolist(),
            "joint_v2": joint[:, 1].tolist(),
        }
    return swept, thresholds, found


def _joint(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    swept, found = {}, {}
    for features in _FEATURES:
        model = _suppressor(settings, features)
        phi_k = _SUPPRESSING * sweeps.threshold(model)
        model = dataclasses.replace(model, phi_k=phi_k)
        lengths = sweeps.weight(model, _BETAS, rows=features, seed=settings.seed)
        swept[f"$p=K={features}$, $\\phi_k={phi_k:.2f}$"] = (_BETAS, lengths)
        found[f"features={features}"] = {
            "phi_k": phi_k,
            "beta": list(_BETAS),
            "v1": lengths[:, 0].tolist(),
            "v2": lengths[:, 1].tolist(),
        }
    return swept, found
