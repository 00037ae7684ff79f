"""Every kind of word that can be misspelt on the command line: the message has the one meant."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from thanos_jax import __main__ as one
from thanos_jax import checkpoint, command, config_files
from thanos_jax import config as schema
from thanos_jax.errors import ConfigError
from thanos_jax.report import __main__ as report
from thanos_jax.tables import rows

ROOT = pathlib.Path(__file__).parents[1]


def digits(argument="", **keys):
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument)
    config.update_from_flattened_dict(keys)
    return schema.check(config)


def named(word):
    sys.argv[1:] = [word]
    one.main()


@pytest.fixture(scope="module")
def flags_of_train(command_module):
    """Imports the command, whose flags are there for as long as the module's tests."""
    with command_module("thanos_jax.main", "config", "workdir", "overwrite", "dry_run"):
        command.app.define_help_flags()
        yield


KINDS = {
    "command": ("train", lambda: named("trian")),
    "flag in place of a command": ("--version", lambda: named("--versoin")),
    "config": ("mnist", lambda: config_files.expand(["--config=mnits"])),
    "data set": ("cifar10", lambda: config_files.expand(["--dataset=cifra10"])),
    "file": ("configs/digits.py", lambda: command._check_config(["--config=configs/digist.py"])),
    # Elsewhere than in a clone: the package has a config of that name.
    "file of the package": ("digits", lambda: command._check_config(["--config=conf/digits.py"])),
    "key": ("train.epochs", lambda: command._check_config(["--config.train.epohcs=1"])),
    "method": ("supcon", lambda: digits("supcno")),
    "preset": ("groups", lambda: digits("thanos,gruops")),
    "methods": ("spread", lambda: rows.rows_of("coarse_to_fine", schema.default(), ["sprad"])),
    "key of a method": (
        "loss.temperature",
        lambda: rows.rows_of(
            "coarse_to_fine", schema.default(), of_method=lambda name: {"loss.temprature": 0.1}
        ),
    ),
    "table": ("joint_loss", lambda: rows.rows_of("joint_los", schema.default())),
    "value": ("thanos", lambda: digits(method="thanso")),
    "task": ("groups", lambda: digits(task="gruops")),
    "name of data": ("celeb_a", lambda: digits(**{"data.name": "celebA"})),
    "encoder": ("resnet50", lambda: digits(**{"model.encoder": "resnet51"})),
    "flag": ("workdir", lambda: command._check_flags(["--workdri=x"], None)),
    "negated flag": ("overwrite", lambda: command._check_flags(["--overwirte"], None)),
    "flag of every command": ("help", lambda: command._check_flags(["--hepl"], None)),
    "flag that others may lack": (
        "workdir",
        lambda: command._check_flags(["--undefok=foo", "--foo=1", "--workdri=x"], None),
    ),
    "flag of words": ("out", lambda: command._check_flags(["a", "--ouut=b"], report.PARSER)),
    "word": ("verify", lambda: checkpoint.PARSER.parse_args(["vreify", "a"])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_has_the_word_that_was_meant(kind, flags_of_train, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["thanos-jax"])
    meant, give = KINDS[kind]
    with pytest.raises((ConfigError, SystemExit)) as raised:
        give()
    assert f"did you mean '{meant}'?" in f"{raised.value}{capsys.readouterr().err}"


@pytest.mark.parametrize(
    "words",
    [
        ["--workdir=x", "--dry_run", "--nodry_run", "--config.train.epochs=1", "--noconfig.x"],
        ["--help", "--helpfull", "--verbosity=1", "--stopped_exit_code=3", "-v=1", "word"],
        ["--workdir", "x", "--", "--whatever"],
        ["--undefok=foo,bar", "--foo=1", "--nobar"],
        ["--foo", "--undefok", "bar, foo", "--bar=x"],
    ],
)
def test_flags_that_are_well_spelt(words, flags_of_train):
    command._check_flags(words, None)
    command._check_flags(["a", "--pic=b", "--out", "c", "--helpfull"], report.PARSER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("trian", "train"),
        ("train --config=digits --workdri=x", "workdir"),
        ("train --config=digits:thanos,gruops --workdir=x", "groups"),
        ("train --config=digits --workdir=x --config.task=gruops", "groups"),
        ("compare --dataset=digits --workdir=x --table=joint_los", "joint_loss"),
        ("report x --ouut=y", "out"),
    ],
)
def test_as_a_user_gives_it(words, meant, tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "thanos_jax", *words.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode
    assert f"did you mean '{meant}'?" in found.stderr + found.stdout
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.iterdir())
