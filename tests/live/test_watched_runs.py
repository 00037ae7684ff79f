"""Whole runs of digits: what logging takes, and what TensorBoard and wandb make of it."""

import json
import struct
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import watching

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax.live import log as live
from thanos_jax.train import metrics

# One device, as a user's machine has it; eight take longer, and hide what logging takes.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
PICTURES = {"views", "reconstructions"}


def digits(**train):
    """As configs/digits.py, but shorter."""
    config = schema.default()
    config.augment.update(crop_scale=(0.5, 1.0), flip=0.0, jitter_probability=0.0)
    config.model.update(encoder="mlp", arrangement="shared")
    config.model.mlp.widths = (256, 128, 64)
    config.train.update(batch_size=256, learning_rate=1e-3, log_every=10, **train)
    config.train.evaluate_every_epochs = 30.0
    return config


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with TensorBoard on, and its folder."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    config = digits(epochs=80.0, profile_steps=3)
    config.log.tensorboard = True
    return folder, run_module.run(config, folder)


def test_logging_takes_a_hundredth_of_a_run_at_most(watched):
    folder, results = watched
    found = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    assert found["errors"] == {}
    assert 0 < found["share"] <= 0.01, found
    records = metrics.read(folder / "metrics.jsonl")
    assert len(records) > 40
    logged = watching.logged(folder / "tensorboard")
    trained = {key: value for key, value in logged.items() if key[1].startswith("train/")}
    assert trained == watching.expected(records)
    last = results["steps"]
    assert logged[last, "results/fine_accuracy"] == np.float32(results["fine_accuracy"])
    shown = {
        value.tag
        for event in watching.events(folder / "tensorboard")
        for value in event.summary.value
        if value.HasField("image")
    }
    assert shown == PICTURES
    assert list((folder / "profile").rglob("*.xplane.pb"))


def test_tensorboard_lists_scalars_images_and_the_projector(watched):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, results = watched
    records = metrics.read(folder / "metrics.jsonl")
    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    points = read.Scalars("train/loss")
    assert [point.step for point in points] == [record["step"] for record in records]
    assert [point.value for point in points] == [np.float32(r["loss"]) for r in records]
    assert set(read.Tags()["images"]) == PICTURES
    with served(folder / "tensorboard") as ask:
        scalars = ask("scalars/tags")["."]
        assert scalars.keys() >= {"train/loss", "train/contrastive", "results/fine_accuracy"}
        assert ask("images/tags")["."].keys() == PICTURES
        assert ask("projector/runs") == ["."]
        (shown,) = ask("projector/info?run=.")["embeddings"]
        images = len(watching_points(folder))
        assert shown["tensorShape"] == [images, results["embedding_dim"]]
        assert shown["sprite"]["singleImageDim"] == [8, 8]
        (session,) = ask(
            "hparams/session_groups",
            {"startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_SUCCESS"]},
        )["sessionGroups"]
        assert session["hparams"]["loss.alpha"] == 0.5
        values = {value["name"]["tag"]: value["value"] for value in session["metricValues"]}
        assert values["results/fine_accuracy"] == np.float32(results["fine_accuracy"])


def watching_points(folder):
    """The lines of the projector's labels, less their header."""
    path = folder / "tensorboard" / "projector" / "metadata.tsv"
    return path.read_text(encoding="utf-8").splitlines()[1:]


class served:  # noqa: N801 (used as a function)
    """TensorBoard's server on a folder, on this machine only; within, a function that asks it."""

    PROGRAM = (
        "import sys; sys.path[:] = {path!r}; from tensorboard.main import run_main; run_main()"
    )

    def __init__(self, folder):
        self._folder = folder

    def __enter__(self):
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", self.PROGRAM.format(path=sys.path)),
                *("--logdir", str(self._folder), "--host", "localhost", "--port", "0"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in self._process.stderr:
            if "http://localhost:" in line:
                self._address = "http://" + line.split("http://")[1].split()[0]
                break
        until = time.monotonic() + 60
        while not self._ask("scalars/tags"):  # it has not read the files yet
            assert time.monotonic() < until
            time.sleep(0.2)
        return self._ask

    def _ask(self, query, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self._address.rstrip('/')}/data/plugin/{query}",
            data,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def __exit__(self, *error):
        self._process.terminate()
        self._process.communicate(timeout=30)


def test_wandb_records_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed; pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = digits(max_steps=30)
    config.method = "supcon"
    config.log.wandb = True
    run_module.run(config, tmp_path)
    found = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
    assert found["errors"] == {}
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    identity = json.loads((tmp_path / live.workdir.WANDB_STATE).read_text(encoding="utf-8"))["id"]
    assert identity in kept.name
    records = metrics.read(tmp_path / "metrics.jsonl")
    history = list(offline(kept))
    losses = {row["train/step"]: row["train/loss"] for row in history if "train/loss" in row}
    assert losses == {record["step"]: record["loss"] for record in records}
    names = {name for row in history for name in row}
    # Of a picture or a table, what describes its file.
    assert names >= {"train/views/path", "results/embedding/path"}


def offline(path):
    """Yields the rows of history in wandb's own file: a LevelDB log of its messages."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, []  # after wandb's own header
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the rest of a block is padding
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # a whole message, or its last part
            record = wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []
            if record.HasField("history"):
                yield {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
