"""kill -9 again and again, most often while a checkpoint is written; then the same end."""

import random
import time

import pytest

from thanos_jax.train.checkpoint import steps

KILLS = 20
SETTINGS = {
    "train.max_steps": 1000,
    "train.log_every": 50,
    # Several saves to a second: most of the time one is under way.
    "train.checkpoint_every_epochs": 0.3,
    "train.evaluate_every_epochs": 1.0,
}

# Ten classes of 129 images, 7 a batch, in chunks: a killed process has forgotten every pass.
BALANCED = {
    "data.classes": "fine",
    "train.batch_size": 112,
    "train.images_per_class": 16,
    "train.micro_batch_size": 56,
}


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "changes"), [(KILLS, {}), (4, BALANCED)])
def test_killed_at_any_moment_and_resumed_is_the_same_run(kills, changes, runs, tmp_path):
    settings = {**SETTINGS, **changes}
    command = runs.arguments(tmp_path / "killed", **settings)
    folder = tmp_path / "killed" / "checkpoints"
    moments = random.Random(0)
    reached, saving = [0], 0
    while len(reached) <= kills:
        process = runs.start(*command)
        try:
            until = time.monotonic() + 240
            while max(steps(folder), default=0) == reached[-1]:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 0.3))
            assert process.poll() is None, (reached, "finished too early")
        finally:
            process.kill()
            process.communicate()
        saving += any(folder.glob("*.tmp"))
        reached.append(max(steps(folder), default=0))
    assert reached == sorted(reached)
    print(f"{kills} kills, {saving} of them while saving; steps {reached}")
    assert saving or kills < KILLS
    for name in ("killed", "undisturbed"):
        process = runs.start(*runs.arguments(tmp_path / name, **settings))
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert f"from the checkpoint of step {reached[-1]} of" in out or name == "undisturbed"
    runs.require_equal(tmp_path / "killed", tmp_path / "undisturbed")
