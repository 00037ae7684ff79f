"""The command that lists and verifies checkpoints."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import pytest

from thanos_jax import checkpoint
from thanos_jax.errors import UserError
from thanos_jax.train import checksums
from thanos_jax.train.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parents[1]


def main(arguments):
    """The exit code of the command, whose message for people goes to stderr."""
    try:
        return checkpoint.main(checkpoint.PARSER.parse_args(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        for step in (5, 10):
            state = {"kernel": jnp.full((8, 8), float(step)), "count": jnp.asarray(step)}
            checkpoints.save(state, step, {"loss": 1 / step, "validation_coarse_accuracy": 0.75})
    return tmp_path


def _flip(folder):
    path = max(
        (path for path in (folder / "arrays").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path.relative_to(folder)


def test_as_a_user_gives_it(workdir):
    name = _flip(workdir / "checkpoints" / "10")
    found = subprocess.run(
        [sys.executable, "-m", "thanos_jax.checkpoint", "verify", str(workdir)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    five, ten = found.stdout.splitlines()
    assert five == "5: ok"
    assert ten.startswith("10: DAMAGED: ")
    assert ten.endswith(f"file {name}: its bytes have changed")
    assert "Traceback" not in found.stderr


def test_lists_step_size_date_and_metrics(workdir, capsys):
    (workdir / "checkpoints" / "5" / checksums.FILE).unlink()
    # The folder itself does as well as the workdir.
    for folder in (workdir, workdir / "checkpoints"):
        assert main(["list", str(folder)]) == 0
        five, ten = capsys.readouterr().out.splitlines()
        assert five.split()[0] == "5"
        assert five.endswith(f"file {checksums.FILE} is missing")
        step, size, unit, date, *numbers = ten.split()
        assert (step, unit) == ("10", "MB")
        files = (workdir / "checkpoints" / "10").rglob("*")
        written = sum(path.stat().st_size for path in files if path.is_file())
        assert float(size) == pytest.approx(written / 1e6, abs=5e-4)
        assert date.startswith("20")
        assert date.endswith("+00:00")
        assert numbers == ["loss=0.1", "validation_coarse_accuracy=0.75"]


def test_verifies_all_or_one(workdir, capsys):
    assert main(["verify", str(workdir)]) == 0
    assert capsys.readouterr().out == "5: ok\n10: ok\n"
    _flip(workdir / "checkpoints" / "5")
    assert main(["verify", str(workdir), "--step=10"]) == 0
    assert main(["verify", str(workdir), "--step=5"]) == 1
    assert "5: DAMAGED" in capsys.readouterr().out


def test_names_the_leaf_where_the_files_agree(workdir, capsys, monkeypatch):
    # As if the arrays had changed on their way to the files.
    real = checksums.of_arrays
    changed = {"kernel": lambda x: x + 1, "count": lambda x: x}
    monkeypatch.setattr(
        checksums, "of_arrays", lambda arrays: real({n: changed[n](x) for n, x in arrays.items()})
    )
    assert main(["verify", str(workdir), "--step=10"]) == 1
    assert "array kernel: its values have changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "{}/absent"], "absent holds no checkpoint"),
        (["list", "{}/absent"], "absent holds no checkpoint"),
        (["verify", "{}", "--step=7"], "--step: expected one of 5, 10, got 7"),
    ],
)
def test_what_is_not_there(arguments, words, workdir, capsys):
    assert main([argument.format(workdir) for argument in arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["delete", "."], "invalid choice"),
        (["list", ".", "--step=3"], "--step: expected with verify only"),
        (["verify", ".", "--step=x"], "invalid int"),
    ],
)
def test_misuse(arguments, words, capsys):
    with pytest.raises(SystemExit) as found:
        main(arguments)
    assert found.value.code == 2
    assert words in capsys.readouterr().err
