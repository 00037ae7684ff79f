"""Checkpoints on a real disk: damage, kills, a full disk, other devices; never silently wrong."""

import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from trainings import DATASET, small_training

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data import sources
from thanos_jax.errors import UserError
from thanos_jax.train import checkpoint, checksums, loop, metrics
from thanos_jax.train.checkpoint import CheckpointError, Checkpoints, DamagedError, kept
from thanos_jax.train.metrics import NonFiniteError
from thanos_jax.train.state import TrainState

ROOT = pathlib.Path(__file__).parents[2]

# Of a save that failed, Orbax leaves writes behind that find their event loop closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
)


def _state(value, size=4):
    """Of every kind of leaf that there is; `size` ** 2 random float32 are in it."""
    kernel = np.random.default_rng(int(value)).standard_normal((size, size), np.float32)
    return TrainState(
        step=jnp.asarray(int(value), jnp.int32),
        params={"kernel": jnp.asarray(kernel), "bias": jnp.full((3,), value, jnp.bfloat16)},
        model_state={"key": jax.random.key_data(jax.random.key(int(value)))},
        opt_state=({"mu": np.full((2, 2), value, np.float32)}, ()),
    )


def _same(found, expected):
    def same(a, b):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    jax.tree.map(same, found, expected)


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 1 and 2; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(_state(step, size=64), step, {"validation_coarse_accuracy": 0.5})
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def _latest(checkpoints):
    checkpoints.wait()
    return max(checkpoint.steps(checkpoints._folder), default=None)


def test_newest_are_kept_and_come_back(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert _latest(checkpoints) is None
        assert checkpoints.restore_latest(_state(0)) is None
        for step in (1, 2, 3):
            checkpoints.save(_state(step), step)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert _latest(checkpoints) == 3
        for step in (2, 3):
            restored = checkpoints.restore(_state(0), step)
            assert jax.tree.structure(restored) == jax.tree.structure(_state(0))
            assert isinstance(restored.opt_state[0]["mu"], np.ndarray)
            _same(restored, _state(step))
        state, step = checkpoints.restore_latest(_state(0))
        assert step == 3
        _same(state, _state(3))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(_state(1), 1)
        checkpoints.save(_state(2), 1)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        _same(checkpoints.restore(_state(0), 1), _state(1))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    state = jax.tree.map(jnp.asarray, _state(1, size=256))
    expected = jax.device_get(state)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, 1)
        for _ in range(3):
            state = advance(state)
        _same(checkpoints.restore(expected, 1), expected)


def test_restored_on_another_number_of_devices(tmp_path):
    eight = sharding.make_mesh()
    two = jax.make_mesh(
        (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)

    def placed(mesh, array):
        return {"all": sharding.replicate(mesh, array), "split": sharding.shard(mesh, array)}

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(placed(eight, rows), 1)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored = checkpoints.restore(placed(two, np.zeros_like(rows)), 1)
    for name, spec in (("all", P()), ("split", P("data"))):
        np.testing.assert_array_equal(restored[name], rows)
        assert restored[name].sharding.is_equivalent_to(NamedSharding(two, spec), 2)


# Damage.


def _restores_right_or_not_at_all(folder, like, expected):
    """Whether step 2 was refused; fails if it came back wrong."""
    with Checkpoints(folder, keep=2) as checkpoints:
        try:
            restored = checkpoints.restore(like, 2)
        except CheckpointError:
            return True
    _same(restored, expected)
    return False


def _flips(folder, count):
    """Flips one bit at a time, undone afterwards; a file has the same chance whatever its size."""
    chance = random.Random(0)
    files = [path for path in _files(folder / "2") if path.stat().st_size]
    for trial in range(count):
        path = files[trial % len(files)]
        position = chance.randrange(8 * path.stat().st_size)
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        yield path
        path.write_bytes(before)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_overlooked(count, copied):
    like, expected = _state(0, size=64), _state(2, size=64)
    refused = sum(
        _restores_right_or_not_at_all(copied, like, expected) for _ in _flips(copied, count)
    )
    assert refused == count
    assert not _restores_right_or_not_at_all(copied, like, expected)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_digests_of_arrays_alone_overlook_none(count, copied, monkeypatch):
    monkeypatch.setattr(checksums, "damaged_file", lambda folder, expected: None)
    like, expected = _state(0, size=64), _state(2, size=64)
    refused = sum(
        _restores_right_or_not_at_all(copied, like, expected) for _ in _flips(copied, count)
    )
    assert refused > count // 4  # some bits mean nothing


def test_every_truncated_or_missing_file_is_named(copied):
    like = _state(0, size=64)
    with Checkpoints(copied, keep=2) as checkpoints:
        for path in _files(copied / "2"):
            before = path.read_bytes()
            for damaged in (before[: len(before) // 2], b"", None):
                if damaged == before:
                    continue
                path.unlink()
                if damaged is not None:
                    path.write_bytes(damaged)
                with pytest.raises(DamagedError, match=f"file {path.relative_to(copied / '2')}"):
                    checkpoints.restore(like, 2)
            path.write_bytes(before)
        _same(checkpoints.restore(like, 2), _state(2, size=64))


def test_a_folder_under_another_name_is_damaged(copied):
    os.rename(copied / "2", copied / "3")
    with (
        Checkpoints(copied, keep=2) as checkpoints,
        pytest.raises(DamagedError, match=r"checkpoint .*3: it was saved as step 2"),
    ):
        checkpoints.restore(_state(0, size=64), 3)


def test_what_orbax_cannot_read_is_said_not_skipped(copied, monkeypatch):
    def broken(*arguments, **keywords):
        raise KeyError("a version of the future")

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", broken)
    with (
        Checkpoints(copied, keep=2) as checkpoints,
        pytest.raises(CheckpointError, match=r"as they were written, but Orbax .*of the future"),
    ):
        checkpoints.restore_latest(_state(0, size=64))


def _flip_an_array(folder, step):
    path = max(_files(folder / str(step) / "arrays"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.relative_to(folder / str(step))


def test_falls_back_to_the_last_good_one_and_says_so(copied, capfd):
    like = _state(0, size=64)
    name = _flip_an_array(copied, 2)
    with Checkpoints(copied, keep=2) as checkpoints:
        state, step = checkpoints.restore_latest(like)
        assert step == 1
        _same(state, _state(1, size=64))
        error = capfd.readouterr().err
        assert f"WARNING: skipping a damaged checkpoint {copied / '2'}: file {name}" in error
        # The run comes to step 2 again, and saves it.
        assert _latest(checkpoints) == 1
        checkpoints.save(_state(2, size=64), 2)
        state, step = checkpoints.restore_latest(like)
        assert step == 2
        _same(state, _state(2, size=64))
    assert capfd.readouterr().err == ""
    assert {path.name for path in copied.iterdir()} == {"1", "2", "2.damaged"}


def test_if_all_are_damaged_nothing_begins_anew(copied, capfd):
    for step in (1, 2):
        _flip_an_array(copied, step)
    for _ in range(2):  # the second start knows no better
        with (
            Checkpoints(copied, keep=2) as checkpoints,
            pytest.raises(UserError, match=r"(?s)all 2 in .* damaged:.*2: file .*1: file .*delete"),
        ):
            checkpoints.restore_latest(_state(0, size=64))
    assert {path.name for path in copied.iterdir()} == {"1", "2"}
    assert capfd.readouterr().err.count("WARNING") == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.replace(params={**s.params, "kernel": jnp.zeros((64, 8))}),
            r"params\.kernel: float32\[64, 64\] was saved, float32\[64, 8\] is expected",
        ),
        (
            lambda s: s.replace(step=jnp.zeros((), jnp.float32)),
            r"at step: int32\[\] was saved, float32\[\] is expected",
        ),
        (
            lambda s: s.replace(opt_state=({"mu": s.opt_state[0]["mu"], "nu": jnp.zeros(2)}, ())),
            r"opt_state\.0\.nu: no such array was saved, float32\[2\] is expected",
        ),
        (
            lambda s: s.replace(model_state={}),
            r"model_state\.key: uint32\[2\] was saved, no such array is expected",
        ),
    ],
    ids=["shape", "dtype", "more", "fewer"],
)
def test_another_state_is_an_error_that_names_the_first_difference(saved, change, words):
    with (
        Checkpoints(saved, keep=2) as checkpoints,
        pytest.raises(CheckpointError, match=words) as found,
    ):
        checkpoints.restore_latest(change(_state(0, size=64)))
    assert not isinstance(found.value, DamagedError)


def test_two_leaves_of_one_name_are_refused(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(ValueError, match="same path"):
        checkpoints.save({"a.b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}, 1)


# What stays.


def test_the_best_and_one_of_every_n_steps_stay_too(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.6, 5: 0.7, 6: float("nan"), 7: None, 8: 0.1}
    for steps in ((1, 2, 3, 4, 5), (6, 7, 8)):  # in two starts
        with Checkpoints(tmp_path, keep=2, best="score", keep_every=4) as checkpoints:
            for step in steps:
                number = {} if scores[step] is None else {"score": scores[step]}
                checkpoints.save(_state(step), step, number)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert _latest(checkpoints) == 8
    # 7 and 8 are the newest, 3 is the later of the best, 4 and 8 the first of their four steps.
    assert {path.name for path in tmp_path.iterdir()} == {"3", "4", "7", "8"}


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        ([], {}, set()),
        ([5], {}, {5}),
        ([10, 20, 30], {"newest": 1}, {30}),
        ([10, 20, 30], {"best": "score"}, {10, 30}),
        ([10, 20, 30], {"best": "absent"}, {30}),
        ([7, 14, 21, 28, 35], {"every": 10}, {14, 21, 35}),
    ],
)
def test_which_stay(steps, options, expected):
    metrics = {step: {"score": 1 / step} for step in steps}
    assert kept(steps, metrics, **{"newest": 1, "best": None, "every": 0, **options}) == expected


def test_metrics_of_a_damaged_one_are_none(copied):
    (copied / "2" / checksums.FILE).write_text("{}", encoding="utf-8")
    with Checkpoints(copied, keep=1, best="validation_coarse_accuracy") as checkpoints:
        checkpoints.save(_state(3), 3)
    assert {path.name for path in copied.iterdir()} == {"1", "3"}


# Saves that fail.


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(_state(1), 1)
        for name, value in (("kernel", jnp.nan), ("bias", jnp.inf)):
            state = _state(2)
            state.params[name] = state.params[name].at[..., 1].set(value)
            words = rf"step 2: \d of the \d+ values of params\.{name} .*that of step 1"
            with pytest.raises(NonFiniteError, match=words):
                checkpoints.save(state, 2)
        assert _latest(checkpoints) == 1


def _until_it_fails(checkpoints):
    """What the loop does: many steps, each with a check."""
    for _ in range(2000):
        checkpoints.check()
        time.sleep(0.01)
    pytest.fail("the save did not fail")


@contextlib.contextmanager
def _largest_file(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_is_told_at_the_next_step_and_later_ones_work(tmp_path):
    big = _state(2, size=512)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(_state(1), 1)
        checkpoints.check()
        checkpoints.wait()
        with _largest_file(300_000):
            checkpoints.save(big, 2)
            with pytest.raises(CheckpointError) as found:
                _until_it_fails(checkpoints)
        for words in ("step 2", str(tmp_path), "File too large", "that of step 1"):
            assert words in str(found.value)
        assert not (tmp_path / "2").exists()
        checkpoints.check()  # told once
        assert checkpoints.restore_latest(_state(0))[1] == 1
        checkpoints.save(big, 2)
        assert checkpoints.restore_latest(big)[1] == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk):
    folder = small_disk / "checkpoints"
    state = _state(1, size=350)  # half a megabyte
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state, 1)
        checkpoints.wait()
        filler = small_disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
        checkpoints.save(state, 2)
        with pytest.raises(CheckpointError, match=r"step 2 .*No space left on device.*of step 1"):
            _until_it_fails(checkpoints)
        assert _latest(checkpoints) == 1
        _same(checkpoints.restore(state, 1), state)
        filler.unlink()
        checkpoints.save(state, 2)
        checkpoints.wait()
        assert _latest(checkpoints) == 2
        _same(checkpoints.restore(state, 2), state)


def test_a_disk_that_may_only_be_read(small_disk):
    with Checkpoints(small_disk / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(_state(1), 1)
        checkpoints.wait()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        checkpoints.save(_state(2), 2)
        with pytest.raises(CheckpointError, match="Read-only file system"):
            checkpoints.wait()
        _same(checkpoints.restore(_state(0), 1), _state(1))
    with pytest.raises(CheckpointError, match=r"more cannot be made: Read-only file system"):
        Checkpoints(small_disk / "more", keep=1)


@contextlib.contextmanager
def _another_error():
    yield
    raise NonFiniteError


def test_the_end_of_a_run_tells_a_failed_save_and_hides_no_other_error(tmp_path, capfd):
    big = _state(2, size=512)
    with _largest_file(300_000):
        with (
            pytest.raises(CheckpointError, match=r"step 2 .*There is none yet"),
            Checkpoints(tmp_path, keep=1) as checkpoints,
        ):
            checkpoints.save(big, 2)
        with (
            pytest.raises(NonFiniteError),
            Checkpoints(tmp_path, keep=1) as checkpoints,
            _another_error(),
        ):
            checkpoints.save(big, 2)
    assert "error: checkpoints: step 2 could not be saved" in capfd.readouterr().err


# In the loop.


def _train(folder, *, steps, step_fn=None):
    """Steps that count, and add 1 to the kernel; a checkpoint after each ten. Returns the state."""
    config = schema.default()
    config.train.update(batch_size=8, max_steps=steps, log_every=10, resident="no")
    config.train.checkpoint_every_epochs = 10.0  # an epoch is a step
    split = sources.ArraySplit(np.zeros((8, 2, 2, 1), np.uint8), np.zeros(8, int), np.zeros(8, int))

    def count(state, batch, seed):
        params = {"kernel": state.params["kernel"] + 1}
        return state.replace(step=state.step + 1, params=params), {"loss": jnp.ones(())}

    mesh = sharding.make_mesh()
    zeros = {"kernel": jnp.zeros((512, 256))}
    state = TrainState(step=jnp.zeros((), jnp.int32), params=zeros, model_state={}, opt_state=())
    dataset = DATASET._replace(splits={"train": split})
    training = small_training(
        config, dataset=dataset, mesh=mesh, state=sharding.replicate(mesh, state)
    )
    stage = loop.Stage("", training, step_fn or count, ("image",), split, training.state)
    with Checkpoints(folder / "checkpoints", keep=3) as checkpoints:
        return loop.train(
            stage, folder, checkpoints=checkpoints,
            evaluations=[(5.0, lambda state: {"validation_coarse_accuracy": 0.25})],
        )[0]  # fmt: skip


def test_the_loop_goes_on_from_the_last_good_checkpoint(tmp_path, capfd):
    _train(tmp_path, steps=20)
    folder = tmp_path / "checkpoints"
    contents = checkpoint.read_contents(folder / "20")
    assert contents["metrics"] == {"loss": 1.0, "validation_coarse_accuracy": 0.25}
    _flip_an_array(folder, 20)
    steps_run = []

    def count(state, batch, seed):
        steps_run.append(int(state.step))
        return state.replace(step=state.step + 1), {"loss": jnp.ones(())}

    state = _train(tmp_path, steps=20, step_fn=count)
    shown = capfd.readouterr()
    assert "skipping a damaged checkpoint" in shown.err
    assert "continuing from the checkpoint of step 10 of 20" in shown.out
    assert steps_run == list(range(10, 20))
    np.testing.assert_array_equal(state.params["kernel"], np.full((512, 256), 10.0))
    assert [r["step"] for r in metrics.read(tmp_path / "metrics.jsonl")] == [5, 10, 15, 20]
    assert not checkpoint.damaged(folder, 20)


def test_the_loop_stops_at_the_step_after_a_failed_save(tmp_path):
    steps_run = []
    random = np.random.default_rng(0).standard_normal((512, 256), np.float32)

    def slow(state, batch, seed):
        steps_run.append(int(state.step))
        if len(steps_run) > 10:
            time.sleep(0.05)
        params = {"kernel": jnp.asarray(random)}
        return state.replace(step=state.step + 1, params=params), {"loss": jnp.ones(())}

    with _largest_file(200_000), pytest.raises(CheckpointError, match="step 10 could not be saved"):
        _train(tmp_path, steps=400, step_fn=slow)
    # Long before the next save.
    assert 10 <= len(steps_run) < 20


_SAVER = """
import sys
import numpy as np
from thanos_jax.train.checkpoint import Checkpoints
def state(step):
    return {"kernel": np.random.default_rng(step).standard_normal((4000, 1000), np.float32)}
with Checkpoints(sys.argv[1], keep=2) as checkpoints:
    for step in (1, 2):
        checkpoints.save(state(step), step)
        print(step, flush=True)
"""


def test_killed_while_saving(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVER, str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert [process.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
        while not list((tmp_path / "2.tmp").rglob("manifest.ocdbt")):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2.tmp"}
    like = {"kernel": jnp.zeros((4000, 1000))}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        state, step = checkpoints.restore_latest(like)
        assert step == 1
        expected = np.random.default_rng(1).standard_normal((4000, 1000), np.float32)
        np.testing.assert_array_equal(state["kernel"], expected)
        checkpoints.save(state, 2)
        assert _latest(checkpoints) == 2


def test_other_names_in_the_folder_are_left_alone(tmp_path):
    for name in ("007", "notes", "3.damaged", "\u0663"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file", encoding="utf-8")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert _latest(checkpoints) is None
        checkpoints.save(_state(1), 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"007", "notes", "3.damaged", "\u0663", "5", "1"}


def test_what_is_kept_with_the_arrays(saved):
    contents = json.loads((saved / "2" / checksums.FILE).read_text(encoding="utf-8"))
    assert list(contents["arrays"]) == [
        "step", "params.bias", "params.kernel", "model_state.key", "opt_state.0.mu"
    ]  # fmt: skip
    assert contents["metrics"] == {"validation_coarse_accuracy": 0.5}
    there = {path.relative_to(saved / "2").as_posix() for path in _files(saved / "2")}
    assert contents["files"].keys() | {checksums.FILE} == there


def test_metrics_may_follow_the_checkpoint_and_keep_it(tmp_path):
    with Checkpoints(tmp_path, keep=1, best="accuracy") as checkpoints:
        checkpoints.save(_state(1), 1)
        checkpoints.wait()
        checkpoints.save(_state(9), 1, {"accuracy": 0.9})  # the state there stays
        checkpoints.save(_state(2), 2, {"accuracy": 0.5})
        checkpoints.save(_state(3), 3, {"accuracy": 0.1})
        checkpoints.wait()
        assert checkpoint.steps(tmp_path) == [1, 3]
        _same(checkpoints.restore(_state(0), 1), _state(1))
        checkpoints.save(_state(1), 1, {"accuracy": 0.0})
        assert checkpoint.read_contents(tmp_path / "1")["metrics"] == {"accuracy": 0.9}
    assert checkpoint.damaged(tmp_path, 1) is None
