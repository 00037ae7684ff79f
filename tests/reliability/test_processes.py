"""One run as several processes: the same losses, stopped together, ended together."""

import json
import pathlib
import shutil
import signal
import textwrap
import time

import numpy as np
import pytest
import watching
from absl import flags
from absl.testing import flagsaver

from thanos_jax import processes
from thanos_jax import run as run_module
from thanos_jax.train import metrics
from thanos_jax.train.checkpoint import steps

WAIT = 280


def ended(started, codes):
    """Waits for processes; returns what they wrote."""
    try:
        said = [process.communicate(timeout=WAIT) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, code, (out, err) in zip(started, codes, said, strict=True):
        assert process.returncode == code, (out, err)
    return said


def require_close(runs, folder, one):
    """Same steps, and the same numbers but for the order in which devices add them up."""
    found, expected = runs.records(folder), runs.records(one)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory):
    """By one process, of eight devices."""
    folder = tmp_path_factory.mktemp("one")
    run_module.run(runs.config(), folder)
    return folder


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(runs, one, tmp_path, capsys):
    program = (str(runs.root / "tests" / "reliability" / "signalled.py"),)
    command = runs.arguments(tmp_path)
    stopped = [
        runs.start(*command, *each, program=program, STOP_AT=at)
        for each, at in zip(runs.several(2), ("0", "13"), strict=True)
    ]
    (out, _), (other, _) = ended(stopped, [0, 0])
    (step,) = {int(word) for word in out.split("stopped after step ")[1].split()[:1]}
    assert 13 <= step < 26
    assert "stopped" not in other
    assert max(steps(tmp_path / "checkpoints")) == step
    assert any("validation_coarse_accuracy" in record for record in runs.records(tmp_path))
    run_module.run(runs.config(), tmp_path)
    assert f"continuing from the checkpoint of step {step} of 26" in capsys.readouterr().out
    require_close(runs, tmp_path, one)


@pytest.mark.slow
@pytest.mark.parametrize("resident", ["no", "yes"])
def test_four_processes_are_as_one(resident, runs, one, tmp_path):
    command = runs.arguments(tmp_path, **{"train.resident": resident})
    ended([runs.start(*command, *each) for each in runs.several(4)], [0, 0, 0, 0])
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["devices"] == "4 x cpu"
    require_close(runs, tmp_path, one)


@pytest.mark.slow
@pytest.mark.parametrize("resident", ["no", "yes"])
def test_two_processes_balance_classes_as_one(resident, runs, tmp_path):
    balanced = {"data.classes": "fine", "train.images_per_class": 16, "train.resident": resident}
    run_module.run(runs.config(**balanced), tmp_path / "one")
    watched = {"log.tensorboard": True, "train.profile_steps": 2}
    command = runs.arguments(tmp_path / "two", **balanced, **watched)
    ended([runs.start(*command, *each) for each in runs.several(2)], [0, 0])
    results = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))
    assert (results["devices"], results["batches"]["class_images_min"]) == ("2 x cpu", 16)
    require_close(runs, tmp_path / "two", tmp_path / "one")
    # The first process alone writes what the run is watched by.
    logged = watching.logged(tmp_path / "two" / "tensorboard")
    trained = {key: value for key, value in logged.items() if key[1].startswith("train/")}
    assert trained == watching.expected(metrics.read(tmp_path / "two" / "metrics.jsonl"))
    assert len(list((tmp_path / "two" / "tensorboard").glob("events*"))) == 1
    assert len(list((tmp_path / "two" / "profile").rglob("*.xplane.pb"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "victim"), [(9, 1), (9, 0), (signal.SIGSTOP, 1)])
def test_when_one_is_killed_or_hangs_the_other_ends(number, victim, runs, tmp_path):
    endless = {"train.max_steps": 10**9, "train.epochs": 1e9, "train.checkpoint_every_epochs": 1e6}
    both = [
        runs.start(*runs.arguments(tmp_path / "run", **endless), *each) for each in runs.several(2)
    ]
    try:
        until = time.monotonic() + WAIT
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert all(process.poll() is None for process in both)
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(2)
        both[victim].send_signal(number)
        started = time.monotonic()
        _, err = both[1 - victim].communicate(timeout=60)
        print(f"{time.monotonic() - started:.1f} s, exit code {both[1 - victim].returncode}")
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert both[1 - victim].returncode != 0
    words = ("another process has ended", "heartbeat", "coordination service", "Socket closed")
    assert any(word in err for word in words), err


@pytest.mark.slow
def test_processes_that_see_different_folders_are_told(runs, one, tmp_path):
    shutil.copytree(one / "checkpoints", tmp_path / "0" / "checkpoints")
    said = ended(
        [
            runs.start(*runs.arguments(tmp_path / str(index)), *each)
            for index, each in enumerate(runs.several(2))
        ],
        [1, 1],
    )
    for _, err in said:
        assert "expected all processes to see one folder" in err
        assert "different steps: 26, 0, by process" in err


PROGRAM = """
    import sys

    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    address, process = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    from thanos_jax import config as schema
    from thanos_jax import sharding
    from thanos_jax.data.batches import train_batches
    from thanos_jax.data.splits import ArraySplit
    from thanos_jax.downstream import placing
    from thanos_jax.train import embed
    from thanos_jax.train.build import Training
    from thanos_jax.train.state import TrainState

    devices = np.array(jax.devices())[[0, 2, 3, 1]]  # 0 and 1 are the first process's
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    assert sharding.local_rows(mesh, 8).tolist() == [[0, 1, 6, 7], [2, 3, 4, 5]][int(process)]
    numbers = np.arange(22)
    images = np.broadcast_to(numbers[:, None, None, None], (22, 2, 2, 1)).astype(np.uint8)
    split = ArraySplit(images, numbers.astype(np.int32), (numbers % 3).astype(np.int32))
    batch = next(
        train_batches(
            sharding.LocalRows(split, mesh), seed=0, batch_size=8, first_step=1, last_step=2
        )
    )
    placed = sharding.shard(mesh, batch["fine"])
    whole = next(train_batches(split, seed=0, batch_size=8, first_step=1, last_step=2))["fine"]
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])

    config = schema.default()
    config.train.batch_size = 8
    forward = jax.jit(
        lambda variables, images: {"embedding": images[:, 0, 0] * variables["params"]["w"]}
    )
    given = {"config": config, "mesh": mesh, "forward": forward}
    training = Training(**{name: given.get(name) for name in Training._fields})
    params = sharding.replicate(mesh, {"w": np.float32(2)})
    state = TrainState(step=0, params=params, model_state={}, opt_state=())
    for stays in (None, False):
        found = embed.embed(training, state, split, keep=("embedding",), on_devices=stays)
        np.testing.assert_array_equal(found["fine"], numbers)
        np.testing.assert_array_equal(found["coarse"], numbers % 3)
        rows = found["embedding"]
        if stays is None:
            assert rows.shape == (22, 1)
            assert [shard.data.shape for shard in rows.rows.addressable_shards] == [(6, 1)] * 2
            some = placing.take(rows, numbers[::3])
            np.testing.assert_array_equal(some[:, 0], 2.0 * numbers[::3])
            rows = placing.whole(rows)
        np.testing.assert_array_equal(rows[:, 0], 2.0 * numbers)
"""


def test_rows_and_embeddings_are_in_order_whatever_the_order_of_the_devices(runs, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    address = runs.several(2)[0][0].partition("=")[2]
    ended(
        [runs.start(address, i, program=(str(tmp_path / "program.py"),)) for i in range(2)], [0, 0]
    )


EVERY = pathlib.Path(__file__).parents[1] / "downstream" / "evaluations.py"
EVALUATIONS = """
    import sys

    import jax
    import numpy as np

    address, process = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    import evaluations
    from thanos_jax import sharding
    from thanos_jax.downstream import transfer

    rng = np.random.default_rng(0)
    fine = {name: rng.integers(0, 6, 400) for name in ("train", "validation", "test")}
    coarse = {name: labels // 2 for name, labels in fine.items()}
    means = rng.normal(size=(6, 8))
    rows = {
        name: (means[labels] + rng.normal(size=(400, 8))).astype(np.float32)
        for name, labels in fine.items()
    }
    mesh = sharding.make_mesh()
    own = sharding.local_rows(mesh, 400)
    spread = {name: sharding.shard(mesh, each[own]) for name, each in rows.items()}
    assert not spread["train"].is_fully_addressable
    probabilities, weights = rng.dirichlet(np.ones(6), 400), rng.normal(size=(6, 8))

    def of(given):
        train, labels, classes = given["train"], fine["train"], coarse["train"]
        figures, predicted = transfer.evaluate(given, fine, coarse, num_fine=6, num_coarse=3)
        del figures["fine_gradient_norm"]  # of rounding
        return {
            "transfer": figures,
            "predicted": predicted,
            **evaluations.of(
                train, given["test"], labels, fine["test"], classes, predicted=predicted,
                weights=weights, probabilities=probabilities,
            ),
        }

    here, everywhere = of(rows), of(spread)
    evaluations.require_close(everywhere, here)
    assert 0.5 < here["transfer"]["fine_accuracy"] < 1
"""


@pytest.mark.slow
def test_evaluations_of_rows_of_two_processes_are_those_of_one(runs, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(EVALUATIONS))
    shutil.copy(EVERY, tmp_path)  # beside the program, which imports it
    address = runs.several(2)[0][0].partition("=")[2]
    ended(
        [runs.start(address, i, program=(str(tmp_path / "program.py"),)) for i in range(2)], [0, 0]
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_processes": 2}, "none of --coordinator, --process_id"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "--process_id: expected less than --num_processes=2, got 2",
        ),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "--coordinator: expected HOST"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, words):
    arguments = [f"--{name}={value}" for name, value in given.items()]
    with flagsaver.flagsaver():
        flags.FLAGS(["command", *arguments], known_only=True)
        with pytest.raises(processes.ProcessError, match=words):
            processes.join()


def test_no_cluster_to_be_found(runs, tmp_path):
    _, err = ended([runs.start(*runs.arguments(tmp_path / "run"), "--distributed")], [1])[0]
    assert "could not connect" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
