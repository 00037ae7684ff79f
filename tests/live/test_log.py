"""The log of a run: every backend gets everything, and none can end the run."""

import json
import sys
import time

import numpy as np
import pytest
from watching import backend, ending, remembering

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax.errors import MissingDependencyError
from thanos_jax.live import log as live
from thanos_jax.live.contract import Logger

RECORD = {"step": 3, "loss": 1.5, "seconds": 2.0}
PICTURE = np.zeros((2, 2, 1), np.uint8)


def config(**keys):
    return {**dict.fromkeys(live.BACKENDS, False), **keys}


def use(folder, monkeypatch, **loggers):
    """A run of a few calls with loggers that `loggers` opens; returns what log.json says."""
    found = {name: backend(opens) for name, opens in loggers.items()}
    monkeypatch.setattr(live, "BACKENDS", found)
    with live.opened(folder, dict.fromkeys(found, True), {}) as log:
        log.images("", 0, lambda: {"views": PICTURE})
        for _ in range(2):
            log.scalars("", RECORD)
        log.finish(ending)
    return json.loads((folder / "log.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("raises", ["open", *Logger._fields])
def test_a_backend_that_raises_is_turned_off_with_one_warning(
    raises, tmp_path, monkeypatch, capsys
):
    bad, _ = remembering(raises)
    good, calls = remembering()

    def opens():
        if raises == "open":
            raise OSError(28, "No space left on device")
        return bad

    found = use(tmp_path, monkeypatch, bad=opens, good=lambda: good)
    out, err = capsys.readouterr()
    assert err.count("WARNING") == 1
    assert "config.log.bad is turned off after an error: " in err
    assert list(found["errors"]) == ["bad"]
    assert "logging: bad " in out
    assert sorted(name for name, *_ in calls) == ["finish", "images", "scalars", "scalars"]
    assert calls[-1] == ("finish", calls[-1][1])
    assert calls[-1][1].results == ending().results


@pytest.mark.parametrize("at", ["images", "finish"])
def test_what_cannot_be_made_is_a_warning(at, tmp_path, monkeypatch, capsys):
    logger, calls = remembering()

    def fails():
        raise ValueError("not readable")

    monkeypatch.setattr(live, "BACKENDS", {"good": backend(lambda: logger)})
    with live.opened(tmp_path, {"good": True}, {}) as log:
        log.images("", 0, fails if at == "images" else lambda: {"views": PICTURE})
        log.scalars("", RECORD)
        log.finish(fails if at == "finish" else ending)
    assert capsys.readouterr().err.count("could not be made: ValueError: not readable") == 1
    names = [name for name, *_ in calls]
    assert "scalars" in names
    assert ("images" in names) == (at != "images")
    assert calls[-1][0] == "finish"
    assert (calls[-1][1] is None) == (at == "finish")


def test_points_that_cannot_be_made_cost_no_more_than_themselves(tmp_path, monkeypatch, capsys):
    logger, calls = remembering()
    monkeypatch.setattr(live, "BACKENDS", {"good": backend(lambda: logger)})

    def fails():
        raise ValueError("another number")

    with live.opened(tmp_path, {"good": True}, {}) as log:
        log.finish(ending, fails)
    assert "could not be made: ValueError: another number" in capsys.readouterr().err
    assert calls[-1][1].results == ending().results
    assert calls[-1][1].points is None


def test_time_is_measured_inside_and_logs_are_closed_when_a_run_ends_early(tmp_path, monkeypatch):
    logger, calls = remembering()
    slow = logger._replace(scalars=lambda *arguments: time.sleep(0.05))
    monkeypatch.setattr(live, "BACKENDS", {"slow": backend(lambda: slow)})
    log = live.opened(tmp_path, {"slow": True}, {})
    log.__enter__().replay("", [RECORD, RECORD])
    assert not log.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert calls == [("finish", None)]
    found = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
    assert 0.1 <= found["seconds"]["slow"] <= found["run_seconds"]
    assert found["share"] == sum(found["seconds"].values()) / found["run_seconds"]


def test_records_of_earlier_starts_have_the_times_they_had(tmp_path):
    logger, calls = remembering()
    records = [{"step": step, "seconds": 10.0 * step} for step in (1, 2, 4)]
    live.Log({"good": logger}).replay("classifier", records)
    assert [(training, record) for _, training, record, _ in calls] == [
        ("classifier", record) for record in records
    ]
    times = [when for *_, when in calls]
    np.testing.assert_allclose(np.diff(times), [10, 20], atol=1e-3)
    assert abs(times[-1] - time.time()) < 5


def test_without_backends_nothing_is_made_or_written(tmp_path):
    with live.opened(tmp_path, config(), {}) as log:
        log.images("", 0, lambda: pytest.fail("made"))
        log.scalars("", RECORD)
        log.finish(lambda: pytest.fail("made"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", live.BACKENDS)
def test_a_missing_package_is_named_before_a_run_starts(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, live.BACKENDS[name].package, None)
    asked = schema.default()
    asked.log[name] = True
    expected = rf"config\.log\.{name}: .*{live.BACKENDS[name].package}.*'\.\[{name}\]'"
    with pytest.raises(MissingDependencyError, match=expected):
        run_module.run(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    live.require(schema.default().log)


def test_every_key_of_the_section_is_a_backend():
    assert set(schema.default().log) == set(live.BACKENDS)
