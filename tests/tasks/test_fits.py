"""What cannot work is said before training, with the key to change; what is odd is a warning."""

import numpy as np
import pytest
from whole_runs import config_of

from thanos_jax import dry_run
from thanos_jax import run as run_module
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import ArraySplit
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import fits


def dataset(classes=2, size=16, shape=(9, 12, 1), **changes):
    labels = np.arange(size) % classes
    split = ArraySplit(np.zeros((size, *shape), np.uint8), labels, labels)
    names = tuple(f"class {number}" for number in range(classes))
    splits = {"train": split, "validation": split, "test": split}
    return Dataset("own", splits, names, names, shape, (0.5,), (0.2,))._replace(**changes)


@pytest.mark.parametrize(
    ("argument", "changes", "data", "message"),
    [
        ("thanos,vit", {"model.vit.patch": 8}, {},
         r"model\.vit\.patch: expected a divisor .* 9 x 12, got 8; data\.image_size changes"),
        ("thanos,vit", {"model.vit.patch": 4}, {}, r"model\.vit\.patch: .* 9 x 12, got 4"),
        ("ce,vit,noise", {"model.vit.patch": 13}, {}, r"model\.vit\.patch: .* 9 x 12, got 13"),
        ("thanos,mlp", {}, {"classes": 1},
         r"config\.task: expected at least two fine classes .* got 1 in own: class 0"),
        ("thanos,mlp", {}, {"one_level": True},
         r"config\.task: 'transfer' .* own has one label, .* task noise, coreset or groups"),
        ("ce,mlp,audit", {"noise.folds": 49}, {},
         r"noise\.folds: expected no more than the 48 images of own, got 49"),
        ("ce,mlp,audit", {"report.keep_embeddings": True}, {},
         r"report\.keep_embeddings: expected False .* got True: .* --part=sample_0"),
        ("ce,mlp,noise", {}, {"classes": 1}, r"at least two classes for .* 'noise', got 1 in own"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_built(argument, changes, data, message, tmp_path, monkeypatch):
    config = config_of("folder", argument)
    config.update_from_flattened_dict(changes)
    monkeypatch.setattr(run_module.stages, "build", lambda *a, **k: pytest.fail("built"))
    with pytest.raises(ConfigError, match=message):
        run_module.run(config, tmp_path / "run", load=lambda _: dataset(**data))
    with pytest.raises(ConfigError, match=message):
        list(dry_run.describe(config, load=lambda _: dataset(**data)))
    assert not (tmp_path / "run").exists()


def test_what_fits_is_let_pass(capsys):
    config = config_of("folder", "thanos,vit")
    config.model.vit.patch = 3
    fits.require(config, dataset())
    config.data.classes = "fine"
    fits.require(config, dataset(one_level=True))
    config.data.classes = "coarse"
    config.task = "noise"
    fits.require(config, dataset(one_level=True))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train.batch_size": 24}, ["", "classifier"]),
        ({"classifier.batch_size": 24}, ["classifier"]),
        ({"train.batch_size": 24, "classifier.batch_size": 16}, [""]),
        ({}, []),
    ],
)
def test_a_batch_larger_than_the_training_set_is_said(changes, expected, capsys):
    config = config_of("folder", "ce,mlp,noise")
    config.noise.method = "mend"
    config.train.batch_size = 16
    config.train.epochs = 30.0
    config.update_from_flattened_dict(changes)
    list(dry_run.describe(config, lambda _: dataset(), costs=()))
    said = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(said) == len(expected)
    for line, name in zip(said, expected, strict=True):
        assert "a batch of 24 images is larger than the training set of 16" in line
        assert "30 epochs are 20 steps" in line
        assert f"config.{name or 'train'}.batch_size" in line


def test_images_without_labels_that_nothing_learns_from_are_said_and_counted(capsys):
    config, data = config_of("folder", "supcon,mlp"), dataset()
    data = data._replace(unlabelled=data.splits["test"], unlabelled_dropped=3)
    fits.require(config, data)
    said = capsys.readouterr().err
    assert "'supcon' has neither InfoNCE nor an autoencoder, so that 16 images" in said
    counts = {"unlabelled_images": 19, "unlabelled_trained_on": 0}
    assert fits.unlabelled_images(config, data) == counts
    config.method = "thanos"
    fits.require(config, data)
    assert capsys.readouterr().err == ""
    assert fits.unlabelled_images(config, data) == {**counts, "unlabelled_trained_on": 16}
    assert fits.unlabelled_images(config, dataset()) == {}
    run = run_module.stages.Run(config, data, None, None)
    assert run_module.stages.planned(run).images == 32
