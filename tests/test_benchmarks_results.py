"""The pages of results agree with the records, and a record with its runs."""

import importlib
import json
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("results")
    for name in ("results", "results_page"):
        sys.modules.pop(name)


@pytest.fixture
def page(results):
    return results.results_page


def test_the_pages_are_what_the_records_say(page, monkeypatch, tmp_path):
    pages = page.pages()
    for name, text in pages.items():
        assert text == (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"), name
    # Each record is shown: what was run is not kept to oneself.
    sources = "".join(path.read_text(encoding="utf-8") for path in page.RECORDS.glob("*.in"))
    named = set(re.findall(r"\{\{ table (\w+) \}\}|\{\{ cell (\w+) run ", sources))
    shown = {name for pair in named for name in pair if name}
    assert shown == {file.stem for file in page.RECORDS.glob("*.json")}
    # Other accuracies in a record are another page.
    monkeypatch.setattr(page, "RECORDS", tmp_path)
    for name in sorted(shown):
        for file in (ROOT / "docs" / "results").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        found = json.loads((tmp_path / f"{name}.json").read_text())
        for run in found["rows"][0]["runs"]:
            run.update({key: run[key] - 0.01 for key in run if "_accuracy" in key})
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        assert page.pages() != pages, name


@pytest.mark.slow
def test_a_record_has_the_table_of_its_runs_bit_by_bit(results, page, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "RECORDS", tmp_path / "records")
    short = "--seeds=2 --config.train.max_steps=2 --config.report.map_points=10"
    commands = {
        "digits": f"compare --config=configs/digits.py:spread --methods=ce,supcon {short}"
        " --config.transfer.every_epochs=0.1 --config.transfer.iterations=5",
        "noise": "compare --config=configs/digits.py:noise --table=noise --methods=ce --values=0.2 "
        f"--config.classifier.epochs=1.0 {short}",
        "one": f"main --config=configs/digits.py:ce {short.removeprefix('--seeds=2 ')}",
    }
    monkeypatch.setattr(results, "COMMANDS", {name: (one,) for name, one in commands.items()})
    monkeypatch.setattr(results, "COPIED", {"digits": {"along_training.png": "copied.png"}})
    monkeypatch.setattr(page, "PICTURES", tmp_path)
    for name in commands:
        results.run(name, tmp_path / "runs", None)
    drawn = tmp_path / "runs" / "digits" / "along_training.png"
    assert (tmp_path / "copied.png").read_bytes() == drawn.read_bytes()
    for name in ("digits", "noise"):
        written = (tmp_path / "runs" / name / "table.md").read_text(encoding="utf-8")
        assert page.render.markdown(page.comparison(page.read(name))) == written
        typed = commands[name].replace("configs/digits.py", "digits")
        assert page.command(name) == f"thanos-jax {typed} --workdir=runs/{name}"
    assert page.command("one").startswith("thanos-jax train --config=digits:ce ")
    assert "seconds" not in page.table("digits")
    found = page.read("digits")
    fine = [one["fine_accuracy"] for one in found["rows"][1]["runs"]]
    assert len(fine) == 2
    assert page.cell("digits", "supcon", "fine_accuracy").startswith(f"{50 * sum(fine):.1f} ± ")
    ce = [one["fine_accuracy"] for one in found["rows"][0]["runs"]]
    assert float(page.gap("digits", "supcon", "ce", "fine_accuracy")) == pytest.approx(
        50 * (sum(fine) - sum(ce)), abs=0.051
    )
    places = [tmp_path / "runs" / "digits" / "supcon" / str(seed) for seed in range(2)]
    curves = [
        json.loads((place / "results.json").read_text("utf-8"))["along_training"]
        for place in places
    ]
    key = "validation_fine_accuracy"
    means = [sum(pair) / 2 for pair in zip(*(one[key] for one in curves), strict=True)]
    at = means.index(max(means))
    assert len(means) == 2
    assert re.fullmatch(
        f"{100 * max(means):.1f} ± .* after {curves[0]['epoch'][at]:.1f} epochs",
        page.highest("digits", "supcon", key),
    )
    for unmeasured in (("digits", "supcon", "fine_accuracy"), ("noise", "ce_noise_0.2", key)):
        with pytest.raises(SystemExit, match="expected two runs or more"):
            page.highest(*unmeasured)
    assert re.search(r"commit \w+.*; 4 runs, ", page.made("digits"))
    one = json.loads((tmp_path / "runs" / "one" / "results.json").read_text())
    assert page.cell("one", "run", "coarse_accuracy") == f"{100 * one['coarse_accuracy']:.1f}"
    for wrong in (("two", "run", "x"), ("one", "ce", "x"), ("one", "run", "fine_acuracy")):
        with pytest.raises(SystemExit, match="expected"):
            page.cell(*wrong)
