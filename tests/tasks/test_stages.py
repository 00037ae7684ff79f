"""One training of several: which state it returns."""

import os
import signal
import time

import jax
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import interruption, sharding
from thanos_jax.data import sources
from thanos_jax.tasks import stages, tracing
from thanos_jax.train import loop
from thanos_jax.train.checkpoint import steps
from thanos_jax.train.two_views import two_views
from thanos_jax.train.update import make_step

# By step; the best is neither the first nor the last, and there twice.
WORST = {2: 0.25, 4: 0.5, 6: 0.5, 8: 0.375, 10: 0.0, 12: 0.25}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    config = schema.default()
    config.method = "ce"
    config.model.encoder = "mlp"
    config.model.mlp.widths = (8,)
    config.train.update(batch_size=128, max_steps=12, checkpoints_kept=1)
    dataset = sources.load(config.data)
    config.train.evaluate_every_epochs = 2 * 128 / len(dataset.splits["train"])
    run = stages.Run(config, dataset, sharding.make_mesh(), tmp_path_factory.mktemp("none"))
    return run, stages.representation(run, "")


def train(parts, folder, **keywords):
    run, stage = parts
    seen = {}

    def evaluate(outputs):
        state = outputs.state
        seen[int(state.step)] = jax.device_get(state.params)
        return {"validation_worst": WORST[int(state.step)]}

    stage = stage._replace(state=jax.tree.map(lambda x: x.copy(), stage.state))
    run = run._replace(folder=folder)
    return stages.train(run, stage, evaluate=evaluate, **keywords), seen


def test_a_stage_is_traced_once(parts):
    """What finds a fault before anything is written is the trace that the first step takes."""
    run, stage = parts
    objective, traced = two_views(stage.training), []

    def differentiate(state, batch):
        traced.append(state.step.shape)
        return objective.differentiate(state, batch)

    step = make_step(stage.training, objective._replace(differentiate=differentiate))
    tracing.trace(stage._replace(step=step))
    batch = stage.split.read(np.arange(128))
    given = sharding.shard(run.mesh, {name: batch[name] for name in stage.inputs})
    step.lower(stage.state, given, np.uint32(0))
    assert len(traced) == 1


def test_the_best_state_is_returned_the_latest_of_equals(parts, tmp_path):
    trained, seen = train(parts, tmp_path, choose="validation_worst")
    assert list(seen) == list(WORST)
    assert trained.step == trained.outputs.state.step == 6
    chosen = jax.device_get(trained.outputs.state)
    jax.tree.map(np.testing.assert_array_equal, chosen.params, seen[6])
    assert steps(tmp_path / "checkpoints") == [6, 12]
    again, seen = train(parts, tmp_path, choose="validation_worst")
    assert not seen
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.outputs.state), chosen)
    assert again.records == trained.records


def test_stopped_where_the_best_is_due_and_resumed_it_is_still_the_best(
    parts, tmp_path, monkeypatch
):
    real = loop.make_advance

    def stopped(*arguments, **keywords):
        advance, longest = real(*arguments, **keywords)

        def checked(state, begin, end):
            if end == 6:  # the step goes on, and its evaluation is left to the next start
                os.kill(os.getpid(), signal.SIGTERM)
                until = time.monotonic() + 10
                while not interruption._active.received and time.monotonic() < until:
                    time.sleep(0.001)
            return advance(state, begin, end)

        return checked, longest

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_advance", stopped)
        with pytest.raises(interruption.Interrupted, match="step 6 of 12"):
            train(parts, tmp_path, choose="validation_worst")
    trained, seen = train(parts, tmp_path, choose="validation_worst")
    assert list(seen) == [6, 8, 10, 12]
    assert trained.step == trained.outputs.state.step == 6
    assert steps(tmp_path / "checkpoints") == [6, 12]
    assert [record["step"] for record in trained.records] == list(WORST)


def test_without_a_choice_it_is_the_last(parts, tmp_path):
    trained, seen = train(parts, tmp_path)
    assert trained.step == trained.outputs.state.step == 12
    last = jax.device_get(trained.outputs.state)
    jax.tree.map(np.testing.assert_array_equal, last.params, seen[12])


def test_an_epoch_may_be_of_another_size(parts, tmp_path):
    run, _ = parts
    split = run.dataset.splits["train"]
    size = len(split)
    twice = {**run.dataset.splits, "train": split.subset(np.tile(np.arange(size), 2))}
    run = run._replace(dataset=run.dataset._replace(splits=twice))
    stage = stages.classifier(run, name="", config=run.config, rows=np.arange(size))
    assert len(stage.split) == size
    trained, seen = train((run, stage), tmp_path)
    assert list(seen) == [4, 8, 12]
    assert trained.records[-1]["epoch"] == pytest.approx(12 * 128 / (2 * size))
