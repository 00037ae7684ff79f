"""What is said of a training's spread before it begins: both numbers, and what would spread."""

import re

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import dry_run
from thanos_jax import run as run_module
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import ArraySplit, DerivedSplit
from thanos_jax.tasks import ending, predicted_spread
from thanos_jax.theory import balance


def config_of(method="spread", *, temperature=0.5, batch_size=128, each=0, **loss):
    config = schema.default()
    config.method = method
    config.loss.update(temperature=temperature, **loss)
    config.train.update(batch_size=batch_size, images_per_class=each)
    return config


def images(sizes):
    coarse = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    names = tuple(map(str, range(len(sizes))))
    split = ArraySplit(np.zeros((len(coarse), 1, 1, 1), np.uint8), coarse, coarse)
    splits = {name: split for name in ("train", "validation", "test")}
    return Dataset("drawn", splits, names, names, (1, 1, 1), (0.5,), (0.5,))


def test_a_hundred_classes_warn_at_a_high_temperature_and_not_at_a_low_one():
    dataset = images([450] * 100)
    assert predicted_spread.warning(predict(config_of(temperature=0.1), dataset)) is None
    prediction = predict(config_of(), dataset)
    words = predicted_spread.warning(prediction)
    assert "alpha 0.5 at temperature 0.5 hardly spreads 100 classes in batches of 128" in words
    drawn = {"classes": 100, "images_per_class": 1.28, "images_in_all": 450, "draw": "uniform"}
    threshold = balance.threshold(temperature=0.5, **drawn)
    assert f"collapse at alpha {threshold:.3g} and below" in words
    expected = balance.within_class_spread(alpha=0.5, temperature=0.5, **drawn)
    assert prediction.within_class_spread == expected
    assert f"within_class_spread {expected:.2g} is predicted" in words
    # What is advised does what is said.
    alpha, temperature, spread = re.search(
        r"alpha (\S+) \(predicted 0\.5\), or temperature (\S+) \(predicted (\S+)\)", words
    ).groups()
    for changes, wanted in (
        ({"alpha": float(alpha)}, 0.5),
        ({"temperature": float(temperature)}, float(spread)),
    ):
        there = predict(config_of(**changes), dataset)
        assert predicted_spread.warning(there) is None
        np.testing.assert_allclose(there.within_class_spread, wanted, atol=0.02)


def predict(config, dataset):
    return predicted_spread.predict(config, dataset)


@pytest.mark.parametrize(
    ("changes", "sizes", "drawn"),
    [
        ({"alpha": 0.4}, [645, 649], {"classes": 2, "images_per_class": 64, "images_in_all": 647}),
        (
            {
                "alpha": 0.6,
                "batch_size": 96,
                "each": 4,
                "denominator": "one_positive",
                "views": "cross",
            },
            [50] * 30,
            {"classes": 30, "images_per_class": 4, "images_in_all": 50, "classes_in_batch": 24},
        ),
        (  # a class of fewer images than are drawn of it repeats them
            {"alpha": 0.4, "batch_size": 64, "each": 32},
            [200, 20],
            {"classes": 2, "images_per_class": 32, "images_in_all": [200, 32]},
        ),
        (
            {"alpha": 0.4},
            [300, 0, 100],
            {"classes": 2, "images_per_class": 64, "images_in_all": [300, 100]},
        ),
    ],
)
def test_the_batches_are_those_of_the_run(changes, sizes, drawn):
    prediction = predict(config_of("thanos", **changes), images(sizes))
    options = {key: changes[key] for key in ("denominator", "views") if key in changes}
    options |= {"temperature": 0.5, "draw": "balanced" if "each" in changes else "uniform", **drawn}
    expected = balance.within_class_spread(alpha=changes["alpha"], **options)
    np.testing.assert_allclose(prediction.within_class_spread, expected, atol=1e-6)
    np.testing.assert_allclose(prediction.threshold, balance.threshold(**options), atol=1e-6)
    assert 0.05 < expected < 0.99


def test_many_sizes_are_a_few():
    generator = np.random.default_rng(0)
    sizes = generator.integers(40, 900, 30).astype(float)
    found = predicted_spread._few_sizes(sizes)
    assert len(set(found)) == 4
    np.testing.assert_allclose(found.sum(), sizes.sum())
    assert 0.5 < (found / sizes).min() < (found / sizes).max() < 2


def test_unknown_sizes_are_taken_to_be_equal():
    dataset = images([30, 90])
    unread = DerivedSplit(dataset.splits["train"], change=lambda batch, _: batch)
    dataset.splits["train"] = unread
    assert predict(config_of(batch_size=32), dataset).setting["images_in_all"] == 60


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        *((config_of(method), [40, 40]) for method in ("ce", "cauto", "info_nce")),
        (config_of("supcon", contrastive_weight=0.0), [40, 40]),
        (config_of(), [200]),
        (config_of(), [30, 40]),  # a batch has them more than once
    ],
)
def test_nothing_is_predicted_and_nothing_said(config, sizes, capsys):
    dataset = images(sizes)
    assert predict(config, dataset) is None
    assert predicted_spread.lines(config, dataset) == []
    assert predicted_spread.results(config, dataset, {}) == {}
    run_module._warn_of_collapse(type("", (), {"config": config, "dataset": dataset}))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("config", "collapse", "advice"),
    [
        (config_of("supcon"), "whose minimum is collapse.", "method spread with alpha"),
        (config_of("supcon_cauto"), "whose minimum is collapse.", "method thanos with alpha"),
        (config_of("thanos", alpha=0.01), "at alpha 0.0351 and below.", "spread them: alpha"),
        (config_of("joint", beta=0.98), "at beta 0.964 and above.", "spread them: beta"),
        (config_of(each=1, batch_size=2), "at any alpha.", "train.images_per_class 2 or more."),
    ],
)
def test_a_loss_that_collapses_is_named_with_what_spreads(config, collapse, advice, capsys):
    dataset = images([645, 649])
    run_module._warn_of_collapse(type("", (), {"config": config, "dataset": dataset}))
    words = capsys.readouterr().err
    assert words.startswith(f"WARNING: method {config.method} ")
    assert "collapses 2 classes in batches of" in words
    assert "within_class_spread 0 is predicted" in words
    assert collapse in words
    assert advice in words


def test_weights_that_spread_are_told_from_those_that_hardly_do():
    dataset = images([645, 649])
    assert predicted_spread.warning(predict(config_of("joint", beta=0.5), dataset)) is None
    assert predicted_spread.warning(predict(config_of(alpha=0.1), dataset)) is None
    little = predict(config_of(alpha=0.045), dataset)
    assert 0.01 < little.within_class_spread < 0.1
    assert little.pull > 1.25
    assert "alpha 0.045 at temperature 0.5 hardly" in predicted_spread.warning(little)


def test_both_losses_of_islam_et_al_are_the_joint_loss():
    dataset = images([450] * 20)
    both = predict(config_of("supcon_info_nce", beta=0.9), dataset)
    joint = predict(config_of("joint", beta=0.5), dataset)
    assert both.setting == joint.setting
    assert "To spread them: method joint with beta" in predicted_spread.warning(both)


def test_results_have_the_measured_spread_beside_what_is_predicted():
    dataset, config = images([645, 649]), config_of("thanos")
    measured = {"geometry": {"train": {"within_class_spread": 0.9}, "test": {}}}
    found = predicted_spread.results(config, dataset, measured)["spread"]
    assert list(found)[:2] == ["within_class_spread", "predicted_within_class_spread"]
    assert found["within_class_spread"] == 0.9
    assert 0.97 < found["predicted_within_class_spread"] < 0.98
    left = "augmentation, the embedding's width (1,293 is assumed), cross-entropy, the autoencoder"
    assert found["prediction_leaves_out"] == f"{left}'s embedding, which is measured too"
    config.model.update(arrangement="shared", projection=(8,))
    found = predicted_spread.results(config, dataset, {})["spread"]
    assert found["prediction_leaves_out"] == (
        f"{left}, the projection head, whose output has the loss"
    )
    assert "within_class_spread" not in found


def test_a_dry_run_says_it_of_each_training():
    config = config_of("thanos", alpha=0.01)
    config.task, config.groups.method, config.model.encoder = "groups", "group_dro", "mlp"
    lines = list(dry_run.describe(config, lambda _: images([645, 649]), costs=()))
    said = [line.strip() for line in lines]
    start = said.index("training representation, 1,294 images:")
    end = said.index("training classifier, 1,294 images:")
    words = "within_class_spread 0 predicted for the contrastive loss alone"
    assert [line.startswith(words) for line in said].index(True) in range(start, end)
    assert sum("within_class_spread" in line for line in said) == 2  # the warning too
    assert sum(line.startswith("WARNING: method thanos") for line in said[start:end]) == 1


def test_images_are_counted_where_labels_are_known_or_not():
    dataset = images([30, 90, 40])
    split = dataset.splits["train"]
    unread = DerivedSplit(split, change=lambda batch, _: batch)
    config = config_of(batch_size=32)
    for kind in (split, unread):
        training = type("", (), {"config": config, "steps": 300, "balance": None})
        stage = type("", (), {"training": training, "split": kind})
        found = ending.batch_classes(stage)
        assert found["classes_in_batch"] == 3
        np.testing.assert_allclose(found["class_images_mean"], 32 / 3)
        assert found["class_images_min"] < 6 * 160 / 32 / 3
        assert found["class_images_max"] > 18
