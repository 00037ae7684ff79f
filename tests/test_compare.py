"""Tables of runs: what is run, resumed, refused and written; the runs are made up but for one."""

import csv
import io
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

import jax
import pytest

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax import workdir
from thanos_jax.errors import ConfigError
from thanos_jax.tables import comparison, figures
from thanos_jax.tables.definitions import TABLES

ROOT = pathlib.Path(__file__).parents[1]
RUN = run_module.run  # before it is replaced


class Runs:
    """Stands for `run`: leaves what it leaves, without training; `broken` ones raise."""

    def __init__(self, folder):
        self.folder, self.ran, self.broken = folder, [], {}

    def __call__(self, config, workdir, *, load):
        name = workdir.relative_to(self.folder).as_posix()
        self.ran.append(name)
        if name in self.broken:
            raise self.broken[name]
        result = {
            "dataset": config.data.name, "method": config.method, "seed": config.seed,
            "fine_accuracy": 0.5 + 0.1 * config.seed, "fine_accuracy_knn": config.loss.beta,
            "fine_accuracy_class_mean": 0.25, "coarse_accuracy": 1.0, "train_seconds": 3.0,
            "geometry": {"test": {"collapse_index": 0.1}}, "devices": "1 x abacus",
            "versions": {"jax": "7", "thanos_jax": "8"},
        }  # fmt: skip
        workdir.mkdir(parents=True)
        for file, content in (("config.json", config.to_dict()), ("results.json", result)):
            (workdir / file).write_text(json.dumps(content), encoding="utf-8")
        return result


@pytest.fixture
def runs(tmp_path, monkeypatch):
    made = Runs(tmp_path / "table")
    monkeypatch.setattr(run_module, "run", made)
    # Drawing is most of what these tests would cost; tests/tables/test_render.py has the pictures.
    monkeypatch.setattr(figures, "draw", lambda comparison: {})
    return made


def compare(runs, config=None, **arguments):
    arguments = {"methods": ["ce", "supcon"], "seeds": 2} | arguments
    return comparison.compare(config or schema.default(), runs.folder, **arguments)


def lines(runs):
    text = (runs.folder / "table.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_runs_seed_by_seed_and_writes_the_table(runs):
    outcome = compare(runs)
    assert runs.ran == ["ce/0", "supcon/0", "ce/1", "supcon/1"]
    assert (outcome.failures, outcome.runs) == ({}, 4)
    assert (runs.folder / "table.md").read_text(encoding="utf-8") == outcome.text
    deviation = statistics.stdev([50, 60])
    assert lines(runs)[0].startswith(f"| ce | 55.0 ± {deviation:.1f} | 50.0 ± 0.0 | ")
    assert lines(runs)[0].endswith("| 0.100 ± 0.000 | 3.0 ± 0.0 | 2 |")
    for words in (
        "data digits;", "encoder vit, arrangement separate;", "600 epochs, batch 128;",
        "seeds 0, 1;", "1 x abacus, jax 7, thanos_jax 8.",
    ):  # fmt: skip
        assert words in outcome.text
    results = json.loads((runs.folder / "results.json").read_text(encoding="utf-8"))
    assert [one["folder"] for one in results] == ["ce/0", "ce/1", "supcon/0", "supcon/1"]
    assert results[3]["row"] == {"method": "supcon"}
    assert results[3]["fine_accuracy"] == 0.6
    for name, count in (("table.csv", 2), ("runs.csv", 4)):
        text = (runs.folder / name).read_text(encoding="utf-8")
        assert len(list(csv.DictReader(io.StringIO(text)))) == count
    page = (runs.folder / "table.html").read_text(encoding="utf-8")
    assert "Coarse-to-fine transfer" in page


def test_reports_are_linked_and_maps_of_first_seeds_set_side_by_side(runs):
    compare(runs, seeds=1)
    page = (runs.folder / "table.html").read_text(encoding="utf-8")
    assert 'href="ce/0/report.html"' in page
    assert "maps.html" not in page  # these runs keep nothing of their reports
    for seed in ("ce/0", "supcon/0"):
        kept = json.dumps({"figures": {}, "records": []})
        (runs.folder / seed / workdir.PICTURES).write_text(kept, encoding="utf-8")
    compare(runs)
    page = (runs.folder / "table.html").read_text(encoding="utf-8")
    assert 'href="supcon/1/report.html"' in page
    assert 'href="maps.html"' in page
    beside = (runs.folder / "maps.html").read_text(encoding="utf-8")
    assert "<h1>ce beside supcon</h1>" in beside
    assert "Runs without a map: ce, supcon." in beside


def test_numbers_across_rows_are_derived_and_written(runs, monkeypatch):
    def derived(lines):
        return [
            {seed: {"fine_accuracy": run["fine_accuracy"] / 2} for seed, run in results.items()}
            if labels["method"] == "supcon"
            else {}
            for labels, results in lines
        ]

    table = TABLES["coarse_to_fine"]._replace(derived=derived)
    monkeypatch.setitem(TABLES, "coarse_to_fine", table)
    compare(runs)
    assert [line.split("|")[2].strip()[:4] for line in lines(runs)] == ["55.0", "27.5"]
    results = json.loads((runs.folder / "results.json").read_text(encoding="utf-8"))
    assert [one["fine_accuracy"] for one in results] == [0.5, 0.6, 0.25, 0.3]
    # A run's own results stay as they were.
    stored = json.loads((runs.folder / "supcon/1/results.json").read_text(encoding="utf-8"))
    assert stored["fine_accuracy"] == 0.6


def test_without_a_table_every_method_is_compared(runs):
    compare(runs, methods=None, seeds=1)
    assert len(runs.ran) == 9
    assert runs.ran[0] == "info_nce/0"


def test_values_and_config_reach_the_runs(runs):
    config = schema.default()
    config.train.epochs = 7.0
    compare(runs, config, table="joint_loss", methods=None, values=["0.3", "1"], seeds=1)
    assert runs.ran == ["joint_beta_0.3/0", "joint_beta_1/0"]
    # The stand-in reports beta as this accuracy.
    assert [line.split(" | ")[:4] for line in lines(runs)] == [
        ["| joint", "0.3", "50.0", "30.0"], ["| joint", "1", "50.0", "100.0"]
    ]  # fmt: skip
    written = json.loads((runs.folder / "joint_beta_1/0/config.json").read_text(encoding="utf-8"))
    assert (written["loss"]["beta"], written["train"]["epochs"]) == (1.0, 7.0)


def test_papers_numbers_are_named_beside_ours_or_absent(runs):
    config = schema.default()
    config.data.name = "mnist"
    text = compare(runs, config, seeds=1).text
    assert "| method | fine | fine (Chen et al. 2022) | fine, nearest" in text
    assert "| ce | 50.0 |  | 50.0" in text
    assert "| supcon | 50.0 | 95.4 ± 0.1 | 50.0" in text
    assert "\nChen et al. 2022: Perfectly Balanced, ICML 2022" in text
    runs.folder = runs.folder.parent / "digits"
    assert "Chen et al." not in compare(runs, seeds=1).text


def test_a_number_without_a_row_is_a_remark(runs):
    config = schema.default()
    config.data.name = "mnist"
    given = {"table": "randbit", "values": ["5"], "methods": ["joint"], "seeds": 1}
    text = compare(runs, config, **given).text
    assert "79.37 for joint" in text
    assert "(Xue" not in text
    # What rows vary is not said of all of them.
    assert "Made on: data mnist; encoder vit" in text
    config.data.random_bits = 3
    runs.folder = runs.folder.parent / "bits"
    given = {"table": "joint_loss", "methods": None, "seeds": 1}
    assert "Made on: data mnist, random_bits 3; encoder" in compare(runs, config, **given).text


def test_stopped_and_started_again_is_the_same_table(runs, tmp_path):
    undisturbed = compare(runs).text
    runs.folder, runs.ran = tmp_path / "stopped", []
    runs.broken = {"ce/1": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare(runs)
    assert [line.rpartition("| 3.0 ")[2] for line in lines(runs)] == ["| 1 |", "| 1 |"]
    assert not (runs.folder / "ce/1").exists()
    runs.ran, runs.broken = [], {}
    assert compare(runs).text == undisturbed
    assert runs.ran == ["ce/1", "supcon/1"]
    runs.ran = []
    assert compare(runs).text == undisturbed
    assert runs.ran == []


def test_one_failure_leaves_the_others_and_is_tried_again(runs, capsys):
    runs.broken = {"ce/0": RuntimeError("out of memory\nat last")}
    outcome = compare(runs)
    assert runs.ran == ["ce/0", "supcon/0", "ce/1", "supcon/1"]
    assert outcome.failures == {"ce/0": "RuntimeError: out of memory\nat last"}
    assert "failed: ce, seed 0: RuntimeError: out of memory" in capsys.readouterr().out
    assert lines(runs)[0].startswith("| ce | 60.0 | ")
    assert lines(runs)[0].endswith("| 1 (failed: 1) |")
    trace = (runs.folder / "ce/0/error.txt").read_text(encoding="utf-8")
    assert "Traceback" in trace
    assert "out of memory" in trace
    assert "out of memory" in (runs.folder / "table.html").read_text(encoding="utf-8")
    # A command about other rows still shows the failure, without trying.
    runs.ran = []
    compare(runs, methods=["supcon"])
    assert runs.ran == []
    assert lines(runs)[0].endswith("| 1 (failed: 1) |")
    runs.broken = {}
    (runs.folder / "ce/0/error.txt").rename(runs.folder / "error.txt")
    (runs.folder / "ce/0").rmdir()
    assert compare(runs).failures == {}
    assert runs.ran == ["ce/0"]
    assert lines(runs)[0].endswith("| 3.0 ± 0.0 | 2 |")


def test_a_mended_failure_leaves_no_error(runs, monkeypatch):
    runs.broken = {"ce/0": RuntimeError("once")}
    compare(runs, methods=["ce"], seeds=1)
    mended = {"fine_accuracy": 0.5, "method": "ce", "seed": 0}
    monkeypatch.setattr(run_module, "run", lambda config, workdir, *, load: mended)
    assert compare(runs, methods=["ce"], seeds=1).failures == {}
    assert not (runs.folder / "ce/0/error.txt").exists()
    assert "Failed runs" not in (runs.folder / "table.html").read_text(encoding="utf-8")


def test_methods_and_seeds_can_be_added(runs):
    compare(runs, methods=["supcon"], seeds=1)
    compare(runs, methods=["ce"], seeds=2)
    assert runs.ran == ["supcon/0", "ce/0", "ce/1"]
    assert [line.split(" | ")[0] for line in lines(runs)] == ["| supcon", "| ce"]
    # Asking for all of them decides the order.
    compare(runs, methods=["ce", "supcon"], seeds=2)
    assert runs.ran[3:] == ["supcon/1"]
    assert [line.split(" | ")[0] for line in lines(runs)] == ["| ce", "| supcon"]


def test_folder_of_another_table_is_refused(runs):
    compare(runs, seeds=1)
    words = "holds the table 'coarse_to_fine', and this is 'randbit'"
    with pytest.raises(ConfigError, match=words):
        compare(runs, table="randbit", methods=["supcon"])
    before = (runs.folder / "table.md").read_bytes()
    other = schema.default()
    other.train.epochs = 9.0
    # Also where no row is common: one table has one config.
    for methods in (["ce"], ["thanos"]):
        with pytest.raises(ConfigError, match=r"train\.epochs: 600\.0 there, 9\.0 now"):
            compare(runs, other, methods=methods)
    assert (runs.folder / "table.md").read_bytes() == before
    other = schema.default()
    other.data.data_dir = "elsewhere"
    compare(runs, other, seeds=1)
    assert len(runs.ran) == 2


def test_a_row_that_sets_something_else_is_refused(runs):
    arguments = {"table": "embedding_size", "methods": ["supcon"], "values": ["4"], "seeds": 1}
    compare(runs, **arguments)
    other = schema.default()
    other.model.encoder = "resnet18"
    with pytest.raises(ConfigError, match=r"model\.embedding_dim: 4 there, None now"):
        compare(runs, other, **arguments)


def test_tuples_survive_the_definition(runs):
    arguments = {"table": "augmentation", "methods": ["supcon"], "values": ["crop"], "seeds": 1}
    compare(runs, **arguments)
    compare(runs, **arguments)
    assert runs.ran == ["supcon_augmentation_crop/0"]


def test_folder_of_a_single_run_is_refused(runs):
    runs.folder.mkdir()
    (runs.folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds a single run"):
        compare(runs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"table": "joint_loss", "methods": None, "values": ["0.5", "2"]}, "config.loss.beta: "),
        ({"methods": ["supcn"]}, "did you mean 'supcon'"),
    ],
    ids=["range", "method"],
)
def test_what_cannot_run_is_refused_before_the_first_run(runs, arguments, words):
    with pytest.raises(ConfigError, match=words):
        compare(runs, **arguments)
    assert runs.ran == []
    assert not runs.folder.exists()


def test_forgets_programs_after_each_run(runs, monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(len(runs.ran)))
    compare(runs, seeds=1)
    compare(runs, seeds=1)
    assert cleared == [1, 2]


def command(*arguments, cwd=ROOT):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    environment.pop("XLA_FLAGS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "thanos_jax.compare", *arguments],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_exit_code_and_words_of_failures(tmp_path):
    process = command(
        "--dataset=mnist", f"--workdir={tmp_path}/table", "--table=randbit", "--values=5",
        "--methods=joint,supcon", "--seeds=2", f"--config.data.data_dir={tmp_path}/data",
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "4 of 4 runs failed; the same command tries them again" in err
    # The same reason is told once.
    assert err.count("DatasetNotFound: ") + err.count("ImportError: ") <= 1
    assert "  joint_bits_5/0, supcon_bits_5/0, joint_bits_5/1, supcon_bits_5/1: " in err
    assert re.search(r"\| joint \| 5 \|[ |]* 0 \(failed: 2\) \|", out)
    assert "Traceback (" not in err
    assert "Traceback (" in (tmp_path / "table/joint_bits_5/0/error.txt").read_text(
        encoding="utf-8"
    )


def test_misuse_fails_with_words(tmp_path):
    process = command("--dataset=digit", f"--workdir={tmp_path}/table")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.startswith("error: --dataset: expected one of ")
    assert "did you mean 'digits'" in err
    assert not (tmp_path / "table").exists()


@pytest.mark.slow
def test_killed_and_started_again_is_the_same_table(tmp_path):
    def start(name):
        return command(
            "--dataset=digits", f"--workdir={tmp_path / name}", "--methods=ce", "--seeds=2",
            "--config.train.max_steps=2", "--config.model.mlp.widths=(8,4)",
            "--config.report.map_points=20",
        )  # fmt: skip

    first, second = (tmp_path / "killed/ce" / seed / "results.json" for seed in "01")
    process = start("killed")
    until = time.monotonic() + 240
    while not first.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not second.exists()
    finished = first.stat().st_mtime_ns
    tables = {}
    for name in ("killed", "undisturbed"):
        process = start(name)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        with (tmp_path / name / "table.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert "<svg" in (tmp_path / name / "table.html").read_text(encoding="utf-8")
        tables[name] = {k: v for k, v in row.items() if not k.startswith("train_seconds")}
    assert first.stat().st_mtime_ns == finished
    assert tables["killed"]["runs"] == "2"
    assert tables["killed"] == tables["undisturbed"]


def test_rows_share_a_data_set_until_another_is_needed():
    loaded = []

    def load(data):
        loaded.append(data.name)
        return object()

    remembered = comparison._remembering(load)
    data = schema.default().data
    first = remembered(data)
    other = data.copy_and_resolve_references()
    other.random_bits = 5
    assert remembered(other) is first
    other.split_seed = 7
    assert remembered(other) is not first
    assert remembered(data) is not first
    assert loaded == ["digits"] * 3


def test_a_comparison_in_use_is_left_as_it_is(runs):
    compare(runs, methods=["ce"], seeds=1)
    before = (runs.folder / "table.json").read_bytes()
    with workdir.locked(runs.folder), pytest.raises(workdir.WorkdirError):
        compare(runs, methods=["supcon"], seeds=2)
    assert (runs.folder / "table.json").read_bytes() == before
    with pytest.raises(ConfigError, match="holds a comparison"):
        RUN(schema.default(), runs.folder)
