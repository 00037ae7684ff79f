"""SIGTERM and SIGINT, sent by the system to this process or to others.

The exit code 0, which is the default, is in test_processes.py.
"""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest
import watching

from thanos_jax import config as schema
from thanos_jax import interruption, workdir
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.live import log as live
from thanos_jax.tables import comparison
from thanos_jax.train import loop, metrics
from thanos_jax.train.checkpoint import CheckpointError, Checkpoints, steps

# One device: its programs compile several times as fast as those of eight.
pytestmark = pytest.mark.usefixtures("one_device")

WAIT = 240


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_module.run(runs.config(), folder)
    return folder


def send(number):
    """Sends this process a signal, and waits until it was received."""
    os.kill(os.getpid(), number)
    until = time.monotonic() + 10
    while interruption._active is not None and not interruption._active.received:
        assert time.monotonic() < until
        time.sleep(0.001)


def stops(monkeypatch, step, number):
    """Lets the next run get a signal while it takes a step; 0: before the first."""
    real = loop.make_advance

    def signalled(*arguments, **keywords):
        advance, longest = real(*arguments, **keywords)

        def checked(state, begin, end):
            result = advance(state, begin, end)
            if begin < step <= end:
                send(number)
            return result

        return checked, longest

    def early(*arguments, **keywords):
        send(number)
        return signalled(*arguments, **keywords)

    monkeypatch.setattr(loop, "make_advance", signalled if step else early)


@pytest.mark.parametrize("resident", ["no", pytest.param("yes", marks=pytest.mark.slow)])
def test_stopped_anywhere_and_resumed_is_the_same_run(
    resident, runs, undisturbed, tmp_path, monkeypatch
):
    config = runs.config(**{"train.resident": resident})
    if resident == "yes":  # another program, whose last bits may be others
        undisturbed = tmp_path / "undisturbed"
        run_module.run(config, undisturbed)
    tmp_path = tmp_path / "stopped"
    # In the middle of a window of the record, twice; where an evaluation is due; at the last step.
    sent = {2: signal.SIGTERM, 8: signal.SIGINT, 11: signal.SIGTERM, 26: signal.SIGINT}
    for step, number in sent.items():
        with monkeypatch.context() as patch:
            stops(patch, step, number)
            with pytest.raises(interruption.Interrupted, match=r"step \d+ of 26, which is saved"):
                run_module.run(config, tmp_path)
        assert step <= max(steps(tmp_path / "checkpoints")) < step + (7 if resident == "yes" else 1)
        assert not (tmp_path / workdir.LOCK).exists()
    run_module.run(config, tmp_path)
    runs.require_equal(tmp_path, undisturbed)


def test_a_record_is_written_once_however_often_the_run_is_stopped_after_it(
    runs, undisturbed, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stops(patch, 11, signal.SIGTERM)  # where an evaluation is due
        with pytest.raises(interruption.Interrupted):
            run_module.run(runs.config(), tmp_path)
    # Killed after the record, before the next checkpoint.
    real, killed = metrics.MetricsFile.append, []

    def appends(file, record):
        real(file, record)
        if record["step"] > 8 and not killed:
            killed.append(record["step"])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsFile, "append", appends)
        with pytest.raises(KeyboardInterrupt):
            run_module.run(runs.config(), tmp_path)
    assert killed
    run_module.run(runs.config(), tmp_path)
    runs.require_equal(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_watched_run_is_the_same_run_and_logs_each_step_once(
    runs, undisturbed, tmp_path, monkeypatch, capsys
):
    wandb, real, killed = watching.fake_wandb(), live.Log.scalars, []
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    watched = runs.config(**{"log.tensorboard": True, "log.wandb": True, "train.profile_steps": 2})
    with monkeypatch.context() as patch:
        stops(patch, 8, signal.SIGTERM)  # not watched yet
        with pytest.raises(interruption.Interrupted):
            run_module.run(runs.config(), tmp_path)

    def scalars(log, training, record):
        real(log, training, record)
        if record["step"] > 8 and not killed:
            killed.append(record["step"])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(live.Log, "scalars", scalars)  # killed after the record, before a checkpoint
        with pytest.raises(KeyboardInterrupt):
            run_module.run(watched, tmp_path)
    assert killed == [11]
    assert max(steps(tmp_path / "checkpoints")) == 8
    # The profiler names a trace by its second: the next start may write over this one.
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    shutil.rmtree(tmp_path / "profile")
    run_module.run(watched, tmp_path)
    runs.require_equal(tmp_path, undisturbed)
    records = metrics.read(tmp_path / "metrics.jsonl")
    found = watching.logged(tmp_path / "tensorboard")
    steps_logged = {key: value for key, value in found.items() if key[1].startswith("train/")}
    assert steps_logged == watching.expected(records)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found[26, "results/fine_accuracy"] == np.float32(results["fine_accuracy"])
    seen = [entry for run in wandb.runs for entry in run.history if "train/loss" in entry]
    assert [entry["train/step"] for entry in seen] == [record["step"] for record in records]
    assert [entry["train/loss"] for entry in seen] == [record["loss"] for record in records]
    assert wandb.runs[-1].summary["results/fine_accuracy"] == results["fine_accuracy"]
    assert (tmp_path / "tensorboard" / "projector" / "sprite.png").exists()
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    assert json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))["errors"] == {}
    assert "turned off" not in capsys.readouterr().err
    workdir.empty(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_before_the_first_step_nothing_is_saved(runs, tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def load(config):
        send(signal.SIGTERM)
        return sources.load(config)

    with pytest.raises(interruption.Interrupted, match="nothing was lost"):
        run_module.run(runs.config(), tmp_path / "a", load=load)
    assert not (tmp_path / "a").exists()
    stops(monkeypatch, 0, signal.SIGINT)
    with pytest.raises(interruption.Interrupted):
        run_module.run(runs.config(), tmp_path / "b")
    assert steps(tmp_path / "b" / "checkpoints") == []
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert signal.set_wakeup_fd(-1) == -1


def test_a_failed_save_is_an_error_not_a_clean_end(runs, tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Checkpoints, "_write", fails)
    stops(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(CheckpointError, match=r"step 2 could not be saved .*No space left"):
        run_module.run(runs.config(), tmp_path)


def test_a_comparison_stops_too(runs, tmp_path, monkeypatch):
    started = []

    def run(config, folder, *, load):
        started.append(folder)
        if fails:
            with interruption.watch() as watch, watch.deferred():
                send(signal.SIGTERM)
                raise CheckpointError("step 3 could not be saved")
        send(signal.SIGTERM)
        pytest.fail("not interrupted")

    monkeypatch.setattr(run_module, "run", run)
    for fails, error in ((False, interruption.Interrupted), (True, CheckpointError)):  # noqa: B007
        started.clear()
        with pytest.raises(error):
            comparison.compare(schema.default(), tmp_path, methods=["ce", "supcon"], seeds=2)
        assert started == [tmp_path / "ce" / "0"]
        assert not (tmp_path / workdir.LOCK).exists()


def test_other_threads_get_no_signals_and_keep_the_handlers():
    found = []

    def use():
        before = signal.getsignal(signal.SIGTERM)
        with interruption.watch() as watch:
            found.append((watch.asked(), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [(False, True)]


def test_a_second_signal_ends_the_process_at_once(runs):
    program = (
        "import time\n"
        "from thanos_jax import interruption\n"
        "with interruption.watch() as watch, watch.deferred():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(100)\n"
    )
    process = runs.start(program=("-c", program))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "a second signal ends" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_the_command_ends_with_the_exit_code_it_was_told_and_goes_on(
    runs, tmp_path, monkeypatch, capsys
):
    endless = {"train.max_steps": 10**9, "train.epochs": 1e9, "train.checkpoint_every_epochs": 1e6}
    command = runs.arguments(tmp_path / "run", **endless)
    process = runs.start(*command, "--stopped_exit_code=75")
    try:
        line = process.stdout.readline()
        assert line.startswith("digits"), process.communicate()
        assert "validation_coarse_accuracy" in process.stdout.readline()
        expected = rf"in use by another run, process {process.pid} on"
        with pytest.raises(workdir.WorkdirError, match=expected):
            run_module.run(runs.config(**endless), tmp_path / "run")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert "Traceback" not in err
    said = re.search(r"stopped after step (\d+) of 1000000000, which is saved", out)
    assert said, out
    assert steps(tmp_path / "run" / "checkpoints")[-1] == int(said[1])
    stops(monkeypatch, int(said[1]) + 2, signal.SIGINT)
    with pytest.raises(interruption.Interrupted):
        run_module.run(runs.config(**endless), tmp_path / "run")
    assert f"continuing from the checkpoint of step {said[1]} of" in capsys.readouterr().out
