"""What all commands do with their words before anything is run."""

import contextlib
import os
import sys

import pytest

from thanos_jax import command
from thanos_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.loss.tempreature=1", "config.loss.tempreature: no such key; did you mean 'loss"),
        (
            "--config.los.temperature=1",
            "config.los.temperature: no such key; did you mean 'loss.te",
        ),
        (
            "--noconfig.classifier.agument",
            "config.classifier.agument: no such key; did you mean 'c",
        ),
        ("-config.seed.x=1", "config.seed.x: no such key; did you mean 'seed'?"),
        ("--config.temperature=1", "config.temperature: no such key"),
        (
            "--config=configs/digit.py",
            "--config: expected a file, got 'configs/digit.py'; did you m",
        ),
        ("--config=conf/digits.py:ce", "--config: expected a file, got 'conf/digits.py'"),
    ],
)
def test_a_misspelt_key_or_file_is_one_line(word, message):
    with pytest.raises(ConfigError) as raised:
        command._check_config(["main", word])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_words_that_are_well_spelt():
    command._check_config([
        "main", "--config=configs/digits.py:ce", "--config.train.epochs=3", "--workdir=x",
        "--config.model.mlp.widths[0]=3", "--config.train=5", "--config.data.data_dir=a=b",
    ])  # fmt: skip


def test_a_misspelt_key_in_a_config_file_is_named_with_its_line(tmp_path):
    from thanos_jax import config as schema

    path = tmp_path / "own.py"
    path.write_text("def get_config(config):\n    config.trian.epochs = 3.0\n")
    scope = {}
    exec(compile(path.read_text(), path, "exec"), scope)
    with pytest.raises(AttributeError) as raised:
        scope["get_config"](schema.default())
    assert str(command._misspelt(raised.value)) == (
        f'{path}, line 2: no such key: \'trian\' Did you mean "train" instead of "trian"?'
    )
    other = AttributeError("'NoneType' object has no attribute 'x'")
    assert command._misspelt(other) is other


def test_the_home_folder_in_any_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    seen = []
    monkeypatch.setattr(command.app, "run", lambda *a, **k: seen.extend(sys.argv))
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    words = ["--workdir=~/runs/x", "--config.data.data_dir=~/a b", "--config=~/own.py:ce",
             "--x=a~/b", "--config.data.unlabelled=~", "~/as/it/is"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["main", *words])
    command.start(lambda argv: None)
    assert seen == ["main", "--workdir=/home/me/runs/x", "--config.data.data_dir=/home/me/a b",
                    "--config=/home/me/own.py:ce", *words[3:]]  # fmt: skip
    assert os.sep == "/"


@contextlib.contextmanager
def printing():
    """Gives sys.stdout a reader of its own, and yields what ends it."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading),
        os.fdopen(writing, "w") as stdout,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "argv", ["main"])
        patch.setattr(command, "keep_compiled_programs", lambda: None)
        yield lambda: os.dup2(os.open(os.devnull, os.O_RDONLY), reading)


def says_and_ends(code):
    with command.while_read():
        print("a line")
        sys.exit(code)


@pytest.mark.parametrize("size", [1, 10**6])  # the one waits to be written, the other does not
def test_a_command_that_nobody_reads_ends_without_a_word(monkeypatch, size):
    monkeypatch.setattr(command.app, "run", lambda *a, **k: print(size * "x"))
    with printing() as stop_reading:
        stop_reading()
        with pytest.raises(SystemExit) as ended:
            command.start(lambda argv: None)
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("code", "expected"), [(None, 1), (0, 1), (3, 3), ("error: x", "error: x")]
)
def test_what_an_unread_command_ended_with_is_kept(code, expected):
    with printing() as stop_reading:
        stop_reading()
        with pytest.raises(SystemExit) as ended:
            says_and_ends(code)
    assert ended.value.code == expected


def test_another_broken_pipe_is_an_error(monkeypatch):
    def fails(*arguments, **keywords):
        print("a line")
        raise BrokenPipeError("a worker has gone")

    monkeypatch.setattr(command.app, "run", fails)
    with printing():
        with pytest.raises(BrokenPipeError, match="a worker has gone"):
            command.start(lambda argv: None)
        with pytest.raises(SystemExit) as ended:
            says_and_ends(3)
    assert ended.value.code == 3
