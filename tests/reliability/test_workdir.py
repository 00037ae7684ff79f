"""One run to a folder, and the words for a folder that cannot be written."""

import os
import subprocess
import sys

import pytest

from thanos_jax import run as run_module
from thanos_jax import workdir


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
        pytest.raises(workdir.WorkdirError, match=r"No space left on device.*Mend that"),
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
        patch.setattr(run_module.metrics.MetricsFile, "append", full)
        with pytest.raises(workdir.WorkdirError, match="No space left on device"):
            run_module.run(runs.config(**{"train.max_steps": 3}), tmp_path)
    assert not (tmp_path / "results.json").exists()
