"""The command that has all others, and configs by their names."""

import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from thanos_jax import __main__ as one
from thanos_jax import config_files
from thanos_jax.config.presets import presets
from thanos_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[1]


def test_names_stand_for_files_of_this_folder_or_of_the_package(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    expand = config_files.expand
    assert expand(["--dataset=mnist", "--seeds=1"]) == ["--config=configs/mnist.py", "--seeds=1"]
    assert expand(["--config", "mnist:,vit"]) == ["--config=configs/mnist.py:,vit"]
    plain = ["--config=configs/mnist.py", "--config.seed=3", "--config=own.py:ce"]
    assert expand(plain) == plain
    with pytest.raises(ConfigError, match="got 'mnits'; did you mean 'mnist'"):
        expand(["--dataset=mnits"])
    with pytest.raises(ConfigError, match=r"celeba, cifar10, .*got ''"):
        expand(["--dataset"])
    with pytest.raises(ConfigError, match=r"--dataset: expected without --config, .* got both"):
        expand(["--config", "x.py", "--dataset=mnist"])
    monkeypatch.chdir(tmp_path)
    (found,) = expand(["--config=digits:ce"])
    assert found.endswith("digits.py:ce")
    assert pathlib.Path(found.removeprefix("--config=").removesuffix(":ce")).is_file()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").touch()
    assert expand(["--config=digits"]) == ["--config=configs/digits.py"]


def test_the_overview_has_all_there_is():
    text = one.overview()
    for name in (*one.COMMANDS, "supcon_cauto", "coreset", "spread_sweep"):
        assert re.search(rf"\b{name}\b", text), name
    for file in (ROOT / "configs").glob("[!_]*.py"):
        line = next(line for line in text.splitlines() if line.split()[:1] == [file.stem])
        assert line.split(maxsplit=1)[1].split(", ") == [
            word for kind in presets(file).values() for word in kind
        ]
    assert presets(ROOT / "configs" / "randbit.py") == {"data": ("mnist", "cifar10", "cifar100")}


def test_files_that_are_no_configs_are_listed_as_such(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name, text in {
        "broken": "1 / 0",
        "other": "A = 1",
        "plain": "def get_config(): ...",
    }.items():
        (tmp_path / "configs" / f"{name}.py").write_text(text, encoding="utf-8")
        assert presets(tmp_path / "configs" / f"{name}.py") == {}
    assert "\n  broken" in one.overview()


def test_every_command_of_the_package_is_one_of_them():
    folder = ROOT / "thanos_jax"
    starts = {
        file.relative_to(ROOT)
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix(".__main__")
        for file in folder.rglob("*.py")
        if "command.start(main" in file.read_text(encoding="utf-8")
    }
    assert starts == {command.module for command in one.COMMANDS.values()}


def test_words(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["thanos-jax", "trian"])
    with pytest.raises(SystemExit, match="got 'trian'; did you mean 'train'"):
        one.main()
    ran = []
    monkeypatch.setattr(one.runpy, "run_module", lambda *a, **k: ran.append((a, k, sys.argv)))
    monkeypatch.setattr(sys, "argv", ["thanos-jax", "balance", "--classes=2"])
    one.main()
    assert ran == [
        (
            ("thanos_jax.theory.balance",),
            {"run_name": "__main__", "alter_sys": True},
            ["thanos-jax", "--classes=2"],
        )
    ]
    monkeypatch.setattr(sys, "argv", ["thanos-jax", "--version"])
    one.main()
    assert capsys.readouterr().out.strip() == one.__version__


def test_who_reads_may_stop_reading():
    code = "import thanos_jax.__main__ as one; one.overview = lambda: 10**7 * 'x'; one.main()"
    found = subprocess.run(
        f'{sys.executable} -c "{code}" | head -c 1',
        shell=True, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("x", "")


@pytest.mark.slow
def test_the_wheel_runs_outside_of_a_clone(tmp_path):
    """Built from the sdist, with configs; what it depends on is this environment's."""
    build = "from setuptools import build_meta; build_meta.build_sdist({!r})"
    subprocess.run(
        [sys.executable, "-c", build.format(str(tmp_path))],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert {
        *("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"),
        *("pyproject.toml", "configs/digits.py", "thanos_jax/report/map.css"),
    } <= inside
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         f"--wheel-dir={tmp_path}", str(sdist)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "site")
    assert {"thanos_jax/configs/digits.py", "thanos_jax/py.typed"} <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "thanos_jax", *(name.split("/")[0] for name in names if ".dist-info/" in name)
    }  # fmt: skip
    for file in ("entry_points.txt", "METADATA", "licenses/LICENSE"):
        assert any(name.endswith(f".dist-info/{file}") for name in names), file
    done = subprocess.run(
        [sys.executable, "-m", "thanos_jax", "train", "--config=digits:supcon", "--dry_run",
         f"--workdir={tmp_path}/run"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "supcon, 1 x mlp" in done.stdout
    assert not (tmp_path / "run").exists()
