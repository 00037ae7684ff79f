"""The comparison of pairwise losses: through its command, and what its words rest on."""

import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def python(*arguments):
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{BENCHMARKS}"
    # One device, compiled as quickly as the other tests.
    flags = os.environ.get("XLA_FLAGS", "").split()
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if "device_count" not in flag)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def command(*arguments):
    return python(str(BENCHMARKS / "pairwise.py"), *arguments)


@pytest.fixture
def module(monkeypatch):
    """Imports a module beside the command; none of them defines flags."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.slow
def test_compares_all_that_is_installed(tmp_path):
    found = command(
        "--entries=32", "--dim=4", "--loss=info_nce", "--implementations=dense",
        "--repeats=3", f"--json={tmp_path}/all.json", f"--plot={tmp_path}/all.png",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    results = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert results["settings"]["entries"] == [32]
    assert results["versions"]["jax"]
    assert results["machine"]["platform"] == "cpu"
    assert results["machine"]["cores"] >= 1
    (product,) = results["matrix_product"]
    assert product["entries"] == 32
    rate = (product["jax before"]["float32"] + product["jax after"]["float32"]) / 2
    names = {
        "thanos_jax dense": "jax",
        "pytorch-metric-learning SupConLoss": "pytorch_metric_learning",
        "lightly NTXentLoss": "lightly",
        "optax ntxent": "optax",
    }
    rows = results["rows"]
    assert [(row["entries"], row["candidate"]) for row in rows] == [(32, name) for name in names]
    for row in rows:
        assert row["candidate"] in found.stdout
        if importlib.util.find_spec(names[row["candidate"]]) is None:
            assert row["status"] == "not installed"
            continue
        assert row["status"] == "ok"
        assert row["agreement"] == "same", row
        assert len(row["seconds"]) == 3
        low, median, high = row["quartile_seconds"]
        assert 0 < low <= median <= high
        assert median == row["median_seconds"] == sorted(row["seconds"])[1]
        floor = 4 * row["entries"] ** 2 * 4 / rate
        assert math.isclose(row["percent_of_floor"]["float32"], 100 * floor / median)
        speeds = row["times_as_fast_as"]
        assert speeds[row["candidate"]] == 1.0
        assert math.isclose(speeds["thanos_jax dense"], rows[0]["median_seconds"] / median)
        assert (row["xla_temp_bytes"] is None) == ("Loss" in row["candidate"])
        if sys.platform == "linux":
            assert 0 <= row["peak_bytes"] < 2**30
    picture = (tmp_path / "all.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.slow
def test_what_does_not_fit_is_listed_and_not_run(tmp_path):
    found = command(
        "--entries=1024,16", "--dim=4", "--loss=spread", "--implementations=dense",
        "--peers=optax", "--repeats=3", "--memory_limit=0.001", "--check_entries=15",
        f"--json={tmp_path}/some.json",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))["rows"]
    assert [row["entries"] for row in rows] == [16, 16, 1024, 1024]
    assert (rows[0]["status"], rows[0]["agreement"]) == ("ok", "unchecked")
    need = re.fullmatch(r"not run: would need (0\.\d+) GB of 0\.001 GB", rows[2]["status"])
    assert float(need[1]) > 4e-9 * 1024**2  # one similarity matrix
    assert rows[2]["status"] in found.stdout
    assert "seconds" not in rows[2]
    assert rows[1]["status"] == rows[3]["status"] == "has no such loss"


@pytest.mark.slow
def test_fails_when_nothing_ran():
    found = command("--entries=16", "--implementations=", "--peers=lightly")
    assert found.returncode == 1
    assert "no candidate ran" in found.stderr
    assert "has no such loss" in found.stdout
    assert "Traceback" not in found.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--entries=64,7", ("--entries", "even numbers", "'7'")),
        ("--entries=2", ("--entries", "at least 4", "'2'")),
        ("--entries=", ("--entries", "at least one number")),
        ("--implementations=dens", ("--implementations", "dense", "'dens'")),
        ("--peers=torch", ("--peers", "pml, lightly, optax", "'torch'")),
        ("--temperature=0", ("--temperature", "positive", "0.0")),
        ("--temperature=nan", ("--temperature", "positive", "nan")),
        ("--memory_limit=-1", ("--memory_limit", "positive", "-1.0")),
        ("--json=results.txt", ("--json", ".json", "'results.txt'")),
        ("--plot=nowhere/figure.png", ("--plot", "existing folder", "'nowhere/figure.png'")),
        ("--loss=supercon", ("--loss", "supcon|spread|info_nce", "supercon")),
        ("--repeats=2", ("--repeats", "3", "2")),
        ("--classes=1", ("--classes", "2", "1")),
        ("surplus", ("surplus",)),
    ],
)
def test_misuse_fails_with_words(argument, words):
    found = command(argument)
    assert found.returncode != 0
    for word in words:
        assert word in found.stderr + found.stdout, word
    assert "entries\n" not in found.stdout  # before anything was measured


@pytest.mark.parametrize("loss", ["supcon", "spread", "info_nce"])
def test_definition_is_that_of_the_losses(module, monkeypatch, loss):
    import jax

    candidates = module("pairwise_candidates")
    # Blocks of 30 anchors, the last one short, and classes of unequal size.
    monkeypatch.setattr(candidates, "ROWS", 30)
    problem = candidates.Problem(loss, 100, 3, 7, 0.3, 1)
    value, gradient = candidates.definition(problem)
    embeddings, labels = candidates.inputs(problem)
    assert len(np.unique(labels)) == (50 if loss == "info_nce" else 7)
    compute = jax.value_and_grad(candidates._thanos("dense", problem))
    expected = compute(embeddings, labels)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    expected = np.asarray(expected[1]).reshape(gradient.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_what_differs_is_marked(module):
    report = module("pairwise_report")
    expected = (2.0, np.array([[1.0, -4.0]]))
    row = {"computes": ""}

    def agreement(value, gradient):
        found = report.errors((value, np.array([gradient])), expected)
        return report.agreement(
            row | dict(zip(("value_error", "gradient_error"), found, strict=True))
        )

    assert agreement(2.0, [1.0, -4.0003]) == "same"
    assert agreement(2.001, [1.0, -4.0]) == "DIFFERS: value by 5e-04, gradient by 0e+00"
    assert agreement(2.0, [1.0, -4.004]) == "DIFFERS: value by 0e+00, gradient by 1e-03"
    assert agreement(math.nan, [1.0, -4.0]).startswith("DIFFERS: value by nan")
    assert agreement(2.0, [math.nan, -4.0]).startswith("DIFFERS")
    assert report.agreement({"computes": "something else"}) == "another function"
    unchecked = {"computes": "", "value_error": None, "gradient_error": None}
    assert report.agreement(unchecked) == "unchecked"


def _results(rows):
    return {
        "settings": {
            "loss": "supcon", "dim": 8, "temperature": 0.1, "classes": 2, "repeats": 3,
        },
        "machine": {
            "platform": "cpu", "device_kind": "cpu", "processor": "a processor", "cores": 2,
            "load_before": 0.25, "environment": {"OMP_NUM_THREADS": "1"},
        },
        "matrix_product": [
            {"entries": 1000, "jax before": {"float32": 1e9}, "jax after": {"float32": 2e9}},
        ],
        "in_turns": True,
        "rows": rows,
    }  # fmt: skip


def _row(candidate, seconds, **different):
    return {
        "entries": 1000, "dim": 8, "candidate": candidate, "status": "ok", "computes": "",
        "seconds": seconds, "cores_busy": 1.5, "value_error": 0.0, "gradient_error": 0.0,
        "peak_bytes": None, "peak_bytes_are": "not measured", "xla_temp_bytes": None,
    } | different  # fmt: skip


def test_table_and_figure_show_speed_share_and_error(module, tmp_path):
    report = module("pairwise_report")
    rows = [
        _row("thanos_jax dense", [0.4, 0.2, 0.1, 0.3, 0.5], peak_bytes=2_500_000),
        _row("optax ntxent", [0.6], computes="something else"),
        _row("pytorch-metric-learning SupConLoss", [3.0], value_error=0.5),
        {"entries": 1000, "dim": 8, "candidate": "lightly NTXentLoss", "status": "not installed"},
    ]
    report.finish(rows, {"float32": 1e9})
    assert rows[0]["floor_seconds"]["float32"] == pytest.approx(0.032)  # 4 N^2 d / rate
    text = report.table(_results(rows))
    cells = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert ["1000", "thanos_jax dense", "300", "200-400", "2.5", "10.7", "1.50", "same"] in cells
    marked = "DIFFERS: value by 5e-01, gradient by 0e+00"
    assert ["1000", "pytorch-metric-learning SupConLoss", "3000", "3000-3000", "1.1", "1.50",
            marked] in cells  # fmt: skip
    assert ["1000", "lightly NTXentLoss", "not installed"] in cells
    assert ["1000", "thanos_jax dense", "1", "2", "10"] in cells
    assert ["1000", "optax ntxent", "0.5", "1", "5"] in cells
    assert "optax ntxent computes another function: something else." in text
    assert "OMP_NUM_THREADS=1" in text
    assert "BUSY" not in text
    busy = _results(rows)
    busy["machine"]["load_before"] = 1.5
    assert "BUSY" in report.table(busy)
    for drawn in (rows, rows[1:]):  # without the only row of known memory, too
        report.plot(_results(drawn), tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


class Connection:
    """What a worker talks to: it is asked `calls` times for a call, then to end."""

    def __init__(self, calls):
        self.questions, self.sent = [True] * calls + [False], []

    def send(self, message):
        self.sent.append(message)

    def recv(self):
        return self.questions.pop(0)


def test_a_failing_candidate_is_a_row_not_a_crash(module, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    problem = module("pairwise_candidates").Problem("supcon", 16, 4, 2, 0.1, 0)
    connection = Connection(calls=2)
    module("pairwise_worker").work(connection, "thanos_jax fast", problem, "cpu", None)
    (report,) = connection.sent
    assert report["status"].startswith("failed: ValueError: implementation")
    assert "'fast'" in report["status"]


def test_a_process_that_dies_is_a_row_not_a_crash():
    # The target cannot be called so: the process ends before it answers.
    found = python("-c", "import pairwise, os; print(pairwise.receive(*pairwise.start(os.fork)))")
    assert "'status': 'failed: its process died with exit code 1'" in found.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_counts_what_was_freed_again():
    code = """
import numpy as np, pairwise_worker
warm = np.ones(2**23)  # 64 MB before: no part of what follows
del warm
pairwise_worker.trim_heap()
meter, how = pairwise_worker.resident_meter()
block = np.ones(2**22)
del block
print(meter(), how, sep=";")
"""
    amount, how = python("-c", code).stdout.strip().split(";")
    assert int(amount) > 2**25 - 2**20
    assert int(amount) < 2**25 + 2**22 or how.endswith("upper bound")
