"""Steps whose loss or gradient is not finite: stopped at, or skipped and counted."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax.data.annotated import annotate
from thanos_jax.data.batches import sample_indices
from thanos_jax.data.splits import ArraySplit
from thanos_jax.tasks import stages
from thanos_jax.train import metrics, nonfinite

pytestmark = pytest.mark.usefixtures("one_device")

BAD = (5, 6)  # counted from 0, as state.step is


@pytest.fixture
def poisoned(monkeypatch):
    """A run in which the objective of two steps is NaN."""
    real = stages.two_views

    def two_views(training):
        objective = real(training)

        def differentiate(state, batch):
            (loss, rest), gradient = objective.differentiate(state, batch)
            bad = (state.step == BAD[0]) | (state.step == BAD[1])
            return (jnp.where(bad, jnp.nan, loss), rest), gradient

        return objective._replace(differentiate=differentiate)

    monkeypatch.setattr(stages, "two_views", two_views)


def test_skipped_steps_are_counted_and_training_goes_on(runs, poisoned, tmp_path):
    given = {"train.on_nonfinite": "skip", "train.nonfinite_limit": 3, "train.max_steps": 14}
    results = run_module.run(runs.config(**given), tmp_path)
    assert results["skipped_steps"] == 2
    records = runs.records(tmp_path)
    assert {r["step"]: r["skipped_steps"] for r in records} == {7: 2, 11: 0, 14: 0}
    assert all(np.isfinite(value) for record in records for value in record.values())
    arrays = runs.arrays(tmp_path)
    counts = {name: int(array) for name, array in arrays.items() if name.endswith("count")}
    # Adam's moments have two updates less; the schedule has come to its end with the run.
    assert (int(arrays["step"]), sorted(counts.values())) == (14, [12, 14]), counts
    assert not (tmp_path / nonfinite.FILE).exists()


def test_too_many_in_a_row_stop_the_run(runs, poisoned, tmp_path):
    config = runs.config(**{"train.on_nonfinite": "skip", "train.nonfinite_limit": 2})
    with pytest.raises(metrics.NonFiniteError, match=r"step 7: 2 steps in a row .*nonfinite_limit"):
        run_module.run(config, tmp_path)
    report = json.loads((tmp_path / nonfinite.FILE).read_text(encoding="utf-8"))
    assert report["step"] == 7
    assert not (tmp_path / "results.json").exists()


def test_a_stopped_run_names_the_images_and_may_go_on_skipping(runs, poisoned, tmp_path):
    given = {"train.log_every": 3, "train.max_steps": 8}
    with pytest.raises(metrics.NonFiniteError, match=rf"step 6: loss = nan.*{nonfinite.FILE}"):
        run_module.run(runs.config(**given), tmp_path)
    report = json.loads((tmp_path / nonfinite.FILE).read_text(encoding="utf-8"))
    expected = sample_indices(seed=0, step=5, batch_size=128, size=1294)
    assert report["train_indices"] == expected.tolist()
    assert report["step"] == 6
    assert report["epoch"] == 5 * 128 / 1294
    assert report["metrics"]["loss"] == "nan"
    assert report["metrics"]["gradient_norm"] > 0
    assert report["last_record"]["step"] == 3
    skipping = {**given, "train.on_nonfinite": "skip"}
    assert run_module.run(runs.config(**skipping), tmp_path)["skipped_steps"] == 2


def test_runs_of_skipped_steps_and_averages():
    config = type("", (), {"train": type("", (), {"on_nonfinite": "skip", "nonfinite_limit": 3})})
    guard = nonfinite.Guard(config, range(10), None, epoch_size=10)
    # In a row over the windows of two records, but never three.
    for flags in ([0, 1, 1], [0, 1], [1, 0, 1]):
        guard.check(1, {"loss": np.zeros(3), nonfinite.SKIPPED: np.array(flags)}, None)
    every = {"loss": np.array([np.nan, np.inf]), nonfinite.SKIPPED: np.ones(2, np.float32)}
    assert nonfinite.averages(every) == {nonfinite.SKIPPED: 2.0}
    assert nonfinite.averages({"loss": np.array([1.0, 2.0])}) == {"loss": 1.5}


def test_repeated_images_are_named_by_their_own_numbers(tmp_path):
    config = schema.default()
    config.train.batch_size = 4
    rows = np.repeat(np.arange(40), 3)[::-1]
    images, labels = np.zeros((40, 1, 1, 1), np.uint8), np.zeros(40, np.int32)
    split = annotate(ArraySplit(images, labels, labels), {}, rows)
    guard = nonfinite.Guard(config, split, tmp_path, epoch_size=40)
    guard.check(1, {}, None)  # no step since the last record
    with pytest.raises(metrics.NonFiniteError, match="step 9"):
        guard.check(9, {"loss": np.array([np.nan], np.float32)}, None)
    report = json.loads((tmp_path / nonfinite.FILE).read_text(encoding="utf-8"))
    drawn = sample_indices(seed=0, step=8, batch_size=4, size=120)
    assert report["train_indices"] == rows[drawn].tolist()
    assert max(report["train_indices"]) < 40
    assert report["epoch"] == 8 * 4 / 40


def test_what_was_pending_is_taken_up_under_another_choice():
    config = schema.default()
    plain = {"loss": np.array([1.0, 2.0], np.float32)}
    counted = {**plain, nonfinite.SKIPPED: np.array([0.0, 1.0], np.float32)}
    assert nonfinite.as_configured(counted, config).keys() == {"loss"}
    config.train.on_nonfinite = "skip"
    np.testing.assert_array_equal(
        nonfinite.as_configured(counted, config)[nonfinite.SKIPPED], [0, 1]
    )
    np.testing.assert_array_equal(nonfinite.as_configured(plain, config)[nonfinite.SKIPPED], [0, 0])
