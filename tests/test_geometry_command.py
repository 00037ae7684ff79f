"""The geometry of a finished run: restored, embedded and measured as the run itself was."""

import json

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import measure, run
from thanos_jax.train import checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = schema.default()
    config.method = "supcon_cauto"
    config.data.random_bits = 2
    config.augment.update(crop_scale=(1.0, 1.0), flip=0.0, jitter_probability=0.0)
    config.model.encoder = "mlp"
    config.model.arrangement = "separate"
    config.model.mlp.widths = (16, 8)
    config.train.update(batch_size=128, max_steps=3)
    config.transfer.iterations = 5
    config.report.map_points = 20
    return folder, run.run(config, folder)


@pytest.mark.slow
def test_a_finished_run_is_measured(finished):
    folder, _ = finished
    found = measure.geometry(folder, images=16, samples=128)
    assert found["step"] == 3

    assert 0 <= found["neural_collapse"]["nc4"] <= 1
    assert "nc3" not in found["neural_collapse"]  # two encoders, two classifiers
    assert found["strata"].keys() == {"0 to 4", "5 to 9"}
    distances = np.array(found["strata_distances"]["distances"], float)
    assert found["strata_distances"]["fine"] == list("0123456789")
    np.testing.assert_allclose(distances, distances.T, rtol=1e-6)
    permuted = found["permutation_test"]
    assert permuted["loss_change"] < 1e-4
    assert permuted["fine_accuracy_permuted"] < permuted["fine_accuracy"]
    for part in ("encoder", "decoder"):
        assert 0 < found[part]["lipschitz_median"] <= found[part]["lipschitz_max"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
def test_what_is_no_run_is_said(finished, tmp_path):
    with pytest.raises(measure.NotARunError, match=r"workdir: expected a run with config\.json"):
        measure.geometry(tmp_path)
    text = (finished[0] / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(measure.NotARunError, match="has no checkpoint yet"):
        measure.geometry(tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="is missing"):
        measure.geometry(tmp_path)
