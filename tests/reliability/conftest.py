"""A run small enough to be started many times, and how two runs are compared.

Makes `watching` importable.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.train import checkpoint, metrics

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "live"))
SETTINGS = {
    "model.mlp.widths": (16, 8),
    "train.batch_size": 128,  # 10.1 steps to an epoch
    "train.max_steps": 26,
    "train.log_every": 7,
    "train.learning_rate": 3e-3,
    "train.evaluate_every_epochs": 1.0,
    "train.checkpoint_every_epochs": 1.5,
    "transfer.regularization": (1e-3,),
    "transfer.iterations": 5,
    "report.map_points": 20,
}


def arrays_of(folder):
    """Name -> array of the newest checkpoint."""
    path = folder / "checkpoints" / str(max(checkpoint.steps(folder / "checkpoints")))
    return checkpoint.read_arrays(path, checkpoint.read_contents(path))


def records_of(folder):
    timing = ("seconds", "images_per_second")
    records = metrics.read(folder / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in timing} for record in records]


class Runs:
    """What the tests of this folder share."""

    root = ROOT
    arrays = staticmethod(arrays_of)
    records = staticmethod(records_of)

    @staticmethod
    def config(**changes):
        """The same as `arguments` gives the command."""
        config = schema.default()
        config.method = "supcon"
        config.augment.update(crop_scale=(0.5, 1.0), flip=0.0, jitter_probability=0.0)
        config.model.update(encoder="mlp", arrangement="shared")
        config.train.update(epochs=300.0)
        for key, value in {**SETTINGS, **changes}.items():
            section, *rest, name = key.split(".")
            node = config[section]
            for part in rest:
                node = node[part]
            node[name] = value
        return config

    @staticmethod
    def arguments(folder, **changes):
        config = [f"--config.{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
        return [f"--config={ROOT}/configs/digits.py:supcon", f"--workdir={folder}", *config]

    @staticmethod
    def start(*arguments, program=("-m", "thanos_jax.main"), **environment):
        """A process with one device."""
        words = os.environ.get("XLA_FLAGS", "").split()
        flags = " ".join(word for word in words if "device_count" not in word)
        changed = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        changed |= environment
        return subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            env={**os.environ, **changed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def several(count):
        """The flags of each process of one run."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        flags = [f"--coordinator={address}", f"--num_processes={count}", "--heartbeat_seconds=10"]
        return [[*flags, f"--process_id={index}"] for index in range(count)]

    @staticmethod
    def require_equal(folder, undisturbed):
        """Every record but for its timing, the parameters and the results; exactly."""
        assert records_of(folder) == records_of(undisturbed)
        found, expected = arrays_of(folder), arrays_of(undisturbed)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        results = [
            json.loads((run / "results.json").read_text(encoding="utf-8"))
            for run in (folder, undisturbed)
        ]
        for result in results:
            del result["train_seconds"], result["images_per_second"]
        assert results[0] == results[1]


@pytest.fixture(scope="session")
def runs():
    return Runs
