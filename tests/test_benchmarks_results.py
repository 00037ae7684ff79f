"""The page of results: it is what the records say, and a record is what the runs came to."""

import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_records_say(results, monkeypatch, tmp_path):
    text = results.page()
    assert text == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    # Each record is shown: what was run is not kept to oneself.
    source = (results.RECORDS / "page.in").read_text(encoding="utf-8")
    named = set(re.findall(r"\{\{ table (\w+) \}\}|\{\{ cell (\w+) run ", source))
    shown = {name for pair in named for name in pair if name}
    assert shown == {file.stem for file in results.RECORDS.glob("*.json")}
    # Another number in a record is another page.
    for file in results.RECORDS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name = next(
        name for name in shown if json.loads((tmp_path / f"{name}.json").read_text())["table"]
    )
    found = json.loads((tmp_path / f"{name}.json").read_text())
    for run in found["rows"][0]["runs"]:
        run["coarse_accuracy"] -= 0.01
    (tmp_path / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    assert results.page() != text


@pytest.mark.slow
def test_a_record_has_the_table_of_its_runs_bit_by_bit(results, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "RECORDS", tmp_path / "records")
    short = "--seeds=2 --config.train.max_steps=2 --config.report.map_points=10"
    commands = {
        "digits": f"compare --config=configs/digits.py:spread --methods=ce,supcon {short}",
        "noise": "compare --config=configs/digits.py:noise --table=noise --methods=ce --values=0.2 "
        f"--config.classifier.epochs=1.0 {short}",
        "one": f"main --config=configs/digits.py:ce {short.removeprefix('--seeds=2 ')}",
    }
    monkeypatch.setattr(results, "COMMANDS", {name: (one,) for name, one in commands.items()})
    for name in commands:
        results.run(name, tmp_path / "runs", None)
    for name in ("digits", "noise"):
        written = (tmp_path / "runs" / name / "table.md").read_text(encoding="utf-8")
        assert results.render.markdown(results.comparison(results.read(name))) == written
        assert (
            results.command(name) == f"python -m thanos_jax.{commands[name]} --workdir=runs/{name}"
        )
    assert "seconds" not in results.table("digits")
    found = results.read("digits")
    fine = [one["fine_accuracy"] for one in found["rows"][1]["runs"]]
    assert len(fine) == 2
    assert results.cell("digits", "supcon", "fine_accuracy").startswith(f"{50 * sum(fine):.1f} ± ")
    ce = [one["fine_accuracy"] for one in found["rows"][0]["runs"]]
    assert float(results.gap("digits", "supcon", "ce", "fine_accuracy")) == pytest.approx(
        50 * (sum(fine) - sum(ce)), abs=0.051
    )
    assert re.search(r"commit \w+.*; 4 runs, ", results.made("digits"))
    one = json.loads((tmp_path / "runs" / "one" / "results.json").read_text())
    assert results.cell("one", "run", "coarse_accuracy") == f"{100 * one['coarse_accuracy']:.1f}"
    for wrong in (("two", "run", "x"), ("one", "ce", "x"), ("one", "run", "fine_acuracy")):
        with pytest.raises(SystemExit, match="expected"):
            results.cell(*wrong)
