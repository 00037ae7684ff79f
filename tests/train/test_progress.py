"""What a run shows of itself, on a terminal and elsewhere."""

import io
import sys

import pytest
import rich.text

from thanos_jax.train import profiling
from thanos_jax.train import progress as shown

RECORD = {
    "step": 20, "epoch": 2.0, "loss": 2.5, "contrastive": 2.0, "cross_entropy": 0.25,
    "reconstruction": 0.125, "coarse_accuracy": 0.75, "gradient_norm": 9.0, "seconds": 3.0,
    "images_per_second": 12345.6,
}  # fmt: skip
TERMS = "loss 2.5  contrastive 2  cross_entropy 0.25  reconstruction 0.125  coarse_accuracy 0.75"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_has_the_loss_terms_and_the_throughput():
    assert shown.words(RECORD) == f"{TERMS}  12,346 images/s"
    assert shown.words({"step": 1, "loss": 0.5}) == "loss 0.5"


@pytest.mark.parametrize(
    ("done", "left", "seconds", "words"),
    [
        (10, 20, 5.0, "0:00:10 left"),
        (2, 3723, 2.0, "1:02:03 left"),
        (0, 20, 5.0, ""),
        (5, 0, 5.0, ""),
    ],
)
def test_time_left(done, left, seconds, words):
    assert shown.time_left(done, left, seconds) == words


def test_elsewhere_evaluations_are_lines_and_silence_is_no_longer_than_half_a_minute(capsys):
    clock = Clock()
    progress = shown.Progress(None, rich.text.Text(), 100, 9, "classifier", clock)
    clock.now = 20.0
    progress.advance(1)  # compiles, and says nothing about the pace
    clock.now = 25.0
    progress.advance(10)
    progress.show(RECORD)
    assert capsys.readouterr().out == ""
    progress.show({**RECORD, "validation_coarse_accuracy": 0.5})
    line = f"classifier step 20/100  {TERMS}  validation_coarse_accuracy 0.5  12,346 images/s  "
    assert capsys.readouterr().out == f"{line}0:00:40 left\n"
    clock.now = 54.0
    progress.show({**RECORD, "step": 30})
    assert capsys.readouterr().out == ""
    clock.now = 56.0
    progress.show({**RECORD, "step": 30})
    assert capsys.readouterr().out.startswith("classifier step 30/100  loss 2.5")


def test_a_terminal_has_a_bar_and_the_terms_below_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stdout", terminal)
    with shown.progress(100, 19, "classifier") as progress:
        progress.advance(1)
        progress.show(RECORD)
    text = terminal.getvalue()
    assert "20/100" in text
    assert "classifier" in text
    assert f"{TERMS}  12,346 images/s" in text


def test_a_profiler_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
    def fails(folder):
        raise RuntimeError("only one profile may be run at a time")

    monkeypatch.setattr(profiling.jax.profiler, "start_trace", fails)
    with profiling.trace(tmp_path, 3, begin=1) as trace:
        assert trace.most(1, 50) == 3
        assert trace.before(0) == 0
        assert trace.before(1) > 0
        assert trace.most(1, 50) == 3  # other processes do not know
        assert trace.most(4, 50) == 50
        assert trace.after(4, ()) == 0
    assert capsys.readouterr().err.count("profile_steps: no trace in") == 1


def test_processes_that_do_not_write_take_the_same_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling.agree, "is_first", lambda: False)
    with profiling.trace(tmp_path, 3, begin=1) as trace:
        assert [trace.most(step, 50) for step in (1, 2, 4)] == [3, 2, 50]
        assert trace.before(1) == 0
    assert list(tmp_path.iterdir()) == []


def test_no_trace_unless_asked(tmp_path):
    with profiling.trace(tmp_path, 0, begin=1) as trace:
        assert trace.most(1, 50) == 50
        assert trace.before(1) == 0
    assert list(tmp_path.iterdir()) == []
