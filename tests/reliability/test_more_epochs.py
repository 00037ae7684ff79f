"""More epochs for a finished run: its schedule begins anew, or it is refused with the way on."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import resume
from thanos_jax import run as run_module
from thanos_jax.errors import ConfigError
from thanos_jax.train import metrics, optimizers

STEPS = 40  # of a run of two epochs


def rates(steps, **settings):
    config = schema.default().train
    config.update(learning_rate=0.5, warmup_epochs=0.25, **settings)
    schedule = optimizers.learning_rate(config, steps=steps, steps_per_epoch=STEPS / 2)
    return np.array([schedule(jnp.int32(step)) for step in range(steps)])


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_a_restart_is_the_same_schedule_again(schedule):
    options = {"schedule": schedule, "drop_epochs": (1.0,)}
    once = rates(STEPS, **options)
    again = rates(2 * STEPS, restart_epochs=(2.0,), **options)
    np.testing.assert_array_equal(again, np.tile(once, 2))
    thrice = rates(2 * STEPS + 10, restart_epochs=(2.0, 4.0), **options)
    np.testing.assert_array_equal(thrice[: 2 * STEPS], again)
    np.testing.assert_array_equal(thrice[2 * STEPS :], rates(10, **options))
    assert once[0] == 0
    assert once.max() == 0.5


def finished(folder, config):
    """Leaves what tells a finished run of a config."""
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    (folder / "results.json").write_text("{}", encoding="utf-8")
    (folder / "report.html").write_text("", encoding="utf-8")
    (folder / "checkpoints" / "40").mkdir(parents=True, exist_ok=True)


def test_more_epochs_go_on_with_the_flag_that_is_named(runs, tmp_path, capsys):
    config = runs.config(**{"train.max_steps": 0, "train.epochs": 5.0})
    finished(tmp_path, config)
    config.train.epochs = 10.0
    with pytest.raises(ConfigError, match=r"(?s)epochs: 5\.0 there, 10\.0 now.*state, add "
                       r"'--config\.train\.restart_epochs=\(5\.0,\)'"):  # fmt: skip
        resume.standing(tmp_path, config)
    config.train.restart_epochs = (5.0,)
    schema.check(config)
    assert resume.standing(tmp_path, config) == (False, None)
    resume.claim(tmp_path, config)
    assert "the run continues, from 5 to 10 epochs" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json"]
    assert (tmp_path / "checkpoints" / "40").exists()
    assert resume.standing(tmp_path, config) == (False, None)
    finished(tmp_path, config)
    assert resume.standing(tmp_path, config) == (False, {})
    config.train.update(epochs=12.0, restart_epochs=(5.0, 10.0))
    assert resume.more_epochs(tmp_path, config)
    config.train.restart_epochs = (4.0, 10.0)  # otherwise than it was begun
    assert not resume.more_epochs(tmp_path, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.epochs": 4.0, "train.restart_epochs": (3.0,)},  # fewer
        {"train.epochs": 10.0, "train.restart_epochs": (4.0,)},  # not at the old end
        {"train.epochs": 10.0, "train.restart_epochs": (2.0, 5.0)},  # and before it
        {"train.epochs": 10.0, "train.restart_epochs": (5.0,), "loss.alpha": 0.25},
        {"train.epochs": 10.0, "train.restart_epochs": (5.0,), "seed": 1},
        {"train.restart_epochs": (2.0,)},
    ],
)
def test_what_would_change_the_past_is_refused(changes, runs, tmp_path):
    config = runs.config(**{"train.max_steps": 0, "train.epochs": 5.0})
    finished(tmp_path, config)
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    with pytest.raises(ConfigError, match="another config") as caught:
        resume.standing(tmp_path, config)
    assert "To train on" not in str(caught.value)


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_a_schedule_without_an_end_needs_no_restart(schedule, runs, tmp_path):
    settings = {"train.max_steps": 0, "train.epochs": 5.0, "train.schedule": schedule}
    config = runs.config(**settings, **{"train.drop_epochs": (2.0,)})
    finished(tmp_path, config)
    config.train.epochs = 10.0
    assert resume.standing(tmp_path, config) == (False, None)
    config.train.warmup_epochs = 6.0
    finished(tmp_path, config)
    config.train.epochs = 20.0
    assert resume.standing(tmp_path, config) == (False, None)
    config.train.update(epochs=5.0)
    finished(tmp_path, config)  # it ended in its warm-up
    config.train.epochs = 20.0
    with pytest.raises(ConfigError, match="another config"):
        resume.standing(tmp_path, config)


def test_restarts_are_checked():
    config = schema.default()
    config.train.update(epochs=5.0, restart_epochs=(5.0,))
    with pytest.raises(ConfigError, match=r"restart_epochs: expected epochs below .* = 5, got"):
        schema.check(config)
    config.update(task="noise")
    with pytest.raises(ConfigError, match=r"restart_epochs: expected none with config\.task 'noi"):
        schema.check(config)


def test_what_is_only_logged_may_change(runs, tmp_path):
    config = runs.config()
    finished(tmp_path, config)
    config.train.update(log_every=3, checkpoint_every_epochs=0.5)
    config.report.update(map_points=30, keep_embeddings=True)
    assert resume.standing(tmp_path, config) == (False, {})


@pytest.mark.slow
def test_a_run_that_goes_on_is_one_with_a_restart(runs, tmp_path):
    config = runs.config(**{"train.max_steps": 0, "train.epochs": 1.5})
    run_module.run(config, tmp_path / "run")
    config.train.update(epochs=3.0, restart_epochs=(1.5,), log_every=3)
    results = run_module.run(config, tmp_path / "run")
    run_module.run(config, tmp_path / "whole")
    assert results["steps"] == 30
    found, expected = runs.arrays(tmp_path / "run"), runs.arrays(tmp_path / "whole")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    records = metrics.read(tmp_path / "run" / "metrics.jsonl")
    rates = {record["step"]: record["learning_rate"] for record in records}
    assert rates[15] < 1e-3  # averaged over the end of the first schedule
    assert max(rate for step, rate in rates.items() if step > 15) > 2e-3
