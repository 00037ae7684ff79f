"""One run to a folder, and the words for a folder that cannot be written."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from thanos_jax import resume, workdir
from thanos_jax import run as run_module
from thanos_jax.errors import ConfigError
from thanos_jax.train import metrics


def test_a_second_run_is_refused_while_the_first_lasts(tmp_path):
    workdir.require_free(tmp_path / "not there yet")
    for _ in range(2):
        with workdir.locked(tmp_path):
            text = (tmp_path / workdir.LOCK).read_text(encoding="utf-8")
            assert text.startswith(f"process {os.getpid()} on ")
            expected = f"in use by another run, {text.strip()}; wait for it"
            with pytest.raises(workdir.WorkdirError, match=expected):
                workdir.require_free(tmp_path)
            with pytest.raises(workdir.WorkdirError, match=expected), workdir.locked(tmp_path):
                pytest.fail("two at once")
        assert not (tmp_path / workdir.LOCK).exists()


def test_the_lock_of_a_killed_process_keeps_nobody_out(runs, tmp_path):
    program = (
        "import os, pathlib, sys\n"
        "from thanos_jax import workdir\n"
        "with workdir.locked(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(runs.root)}
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, check=False
    )
    assert killed.returncode == -9
    assert (tmp_path / workdir.LOCK).exists()
    workdir.require_free(tmp_path)
    with workdir.locked(tmp_path):
        pass


def test_a_lock_file_removed_before_it_is_locked_does_not_count(tmp_path, monkeypatch):
    import fcntl

    real = fcntl.flock
    taken = []

    def flock(descriptor, operation):
        real(descriptor, operation)
        if not taken:  # as if a run that ended had done so just now
            (tmp_path / workdir.LOCK).unlink()
        taken.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    with workdir.locked(tmp_path):
        assert len(taken) == 2
        assert (tmp_path / workdir.LOCK).exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    import errno
    import fcntl

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with workdir.locked(tmp_path):
        assert "file system without locks" in capsys.readouterr().err


def test_a_full_disk(tmp_path):
    with (
        pytest.raises(workdir.WorkdirError, match=r"No space left on device.*Fix that"),
        workdir.writing(tmp_path),
        open("/dev/full", "w", encoding="utf-8") as file,
    ):
        file.write("x")


def test_a_folder_that_cannot_be_made_or_locked(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(workdir.WorkdirError, match="Not a directory"):
        run_module.run(runs.config(), tmp_path / "file" / "run")
    (tmp_path / "run" / workdir.LOCK).mkdir(parents=True)
    with pytest.raises(workdir.WorkdirError, match=r"lock cannot be written: Is a directory"):
        run_module.run(runs.config(), tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(runs, tmp_path):
    (tmp_path / "run").mkdir(mode=0o555)
    with pytest.raises(workdir.WorkdirError, match="Permission denied"):
        run_module.run(runs.config(), tmp_path / "run")


def test_records_that_cannot_be_written_stop_the_run(runs, tmp_path, monkeypatch):
    def full(self, record):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsFile, "append", full)
        with pytest.raises(workdir.WorkdirError, match="No space left on device"):
            run_module.run(runs.config(**{"train.max_steps": 3}), tmp_path)
    assert not (tmp_path / "results.json").exists()


def finished_otherwise(folder, config):
    """Leaves what finished runs of both tasks leave, of another seed; returns the files."""
    config.seed += 1
    text = json.dumps(config.to_dict())
    trained = ("metrics.jsonl", "unlogged.json", "nonfinite.json", "correct.npz", "correct.npz.tmp",
               "model.json",
               "checkpoints/7/checksums.json", "checkpoints/9.tmp/a",
               "checkpoints/5.damaged/a")  # fmt: skip
    names = [*trained, "config.json", "results.json", "report.html", "geometry.json"]
    names += ["map.npz", "pictures.json", *workdir.EMBEDDINGS, *workdir.FINDINGS]
    names += [f"{finding}.tmp" for finding in workdir.FINDINGS]
    trainings = [training.replace("[0-9]", "1") for training in workdir.TRAININGS]
    names += [f"{training}/{name}" for training in trainings for name in trained]
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if path.name == "config.json" else "", encoding="utf-8")
    config.seed -= 1
    return paths


def test_only_what_a_run_has_written_is_removed(runs, tmp_path):
    run = tmp_path / "run"
    paths = finished_otherwise(run, runs.config())
    mine = [run / name for name in (
        "notes.txt", "robust/notes.txt", "checkpoints/best", "checkpoints/best.d/7/a", "7/a",
        "data/metrics.jsonl", "sample_a/metrics.jsonl", "theory.json", workdir.LOCK,
    )]  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    (run / "identification" / "checkpoints").rename(elsewhere)
    (run / "identification" / "checkpoints").symlink_to(elsewhere)
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    workdir.empty(run)
    assert not any(path.exists() for path in paths)
    assert all(path.exists() for path in mine)
    assert not (run / "representation").exists()
    assert list(elsewhere.iterdir()) == []
    workdir.empty(run)
    workdir.empty(tmp_path / "not there")


def test_a_run_of_another_config_is_overwritten_only_when_asked(runs, tmp_path, capsys):
    config = runs.config(**{"train.max_steps": 1})
    paths = finished_otherwise(tmp_path, config)
    notes = tmp_path / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"(?s)--overwrite to start again:.*seed: 1 there"):
        run_module.run(config, tmp_path)
    with workdir.locked(tmp_path), pytest.raises(workdir.WorkdirError, match="in use by another"):
        run_module.run(config, tmp_path, overwrite=True)
    broken = runs.config(**{"train.max_steps": 1, "data.correlation": 0.6})
    broken.model.update(encoder="vit")
    broken.model.vit.patch = 5
    with pytest.raises(ValueError, match="patch"):  # a run that cannot start removes nothing
        run_module.run(broken, tmp_path, overwrite=True)
    assert all(path.exists() for path in [*paths, notes])
    results = run_module.run(config, tmp_path, overwrite=True)
    assert "a run of another config is removed" in capsys.readouterr().out
    assert (results["seed"], results["steps"]) == (0, 1)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {
        "notes.txt", "config.json", "metrics.jsonl", "checkpoints", "results.json", "report.html",
        "model.json", "map.npz", "pictures.json",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    # The same command again, as a scheduler gives it, begins nothing anew.
    assert run_module.run(config, tmp_path, overwrite=True) == results
    assert "nothing to do" in capsys.readouterr().out


def test_emptying_that_was_interrupted_leaves_no_other_run(runs, tmp_path, monkeypatch):
    """Checkpoints of one config are never taken for those of another."""
    import pathlib

    paths = finished_otherwise(tmp_path, runs.config())
    real, calls = pathlib.Path.unlink, 0

    def unlink(self, missing_ok=False):
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise KeyboardInterrupt
        real(self, missing_ok=missing_ok)

    for allowed in range(100):
        calls = 0
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(pathlib.Path, "unlink", unlink)
            workdir.empty(tmp_path)
        left = [path for path in paths if "checkpoints" in path.parts and path.exists()]
        if left:
            assert resume.differences(tmp_path, runs.config())
        if calls <= allowed:
            break
    else:
        pytest.fail("never done")
    assert allowed > 10
    assert not any(path.exists() for path in paths)


def test_what_lies_in_folders_of_the_log_and_is_not_the_runs_stays(tmp_path):
    own = [
        "tensorboard/events.out.tfevents.1.host.thanos_jax",
        "tensorboard/classifier/events.out.tfevents.2.host.thanos_jax",
        *(f"tensorboard/projector/{name}" for name in workdir.PROJECTOR_FILES),
        "tensorboard/projector_config.pbtxt",
        "wandb/offline-run-20260101_000000-abc123/run.wandb",
        "profile/plugins/profile/2026/host.xplane.pb",
        "classifier/profile/plugins/profile/2026/host.xplane.pb",
        "wandb.json",
        "log.json",
    ]
    others = [
        "tensorboard/events.out.tfevents.3.host",
        "wandb/run-20250101_000000-other9/run.wandb",
        "wandb/settings",
        "profile/mine.txt",
    ]
    for name in own + others:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    (tmp_path / "wandb" / "latest-run").symlink_to("offline-run-20260101_000000-abc123")
    (tmp_path / "wandb.json").write_text('{"id": "abc123", "written": {}}', encoding="utf-8")
    workdir.empty(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {name for name in left if not (tmp_path / name).is_dir()} == set(others)
    assert not (tmp_path / "classifier").exists()


def test_without_a_run_of_its_own_nothing_of_wandb_goes(tmp_path):
    (tmp_path / "wandb" / "run-20250101_000000-other9").mkdir(parents=True)
    workdir.empty(tmp_path)
    assert (tmp_path / "wandb" / "run-20250101_000000-other9").is_dir()
