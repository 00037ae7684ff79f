"""What all commands do with their words before anything is run."""

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
