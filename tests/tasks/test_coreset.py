"""Choosing a coreset and training on it, end to end on digits of which some are rare."""

import csv
import itertools
import json

import numpy as np
import pytest
from whole_runs import StopHereError, config_of, mapped, records, stop, stopped, stopping, untimed

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax import workdir
from thanos_jax.data import sources
from thanos_jax.downstream.coreset import halves
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import chosen, scored
from thanos_jax.tasks import coreset as task
from thanos_jax.train import embed as embed_module

SIZE = 685  # training images


def small(method="common_strata", steps=8, **settings):
    config = config_of("digits", "ce,coreset")
    config.data.update(rare_fraction=0.2, validation_fraction=0.3)
    config.model.mlp.widths = (32, 16)
    config.coreset.update(
        **{"method": method, "fraction": 0.3, "runs": 2, "epochs": 0.0, "same_steps": False}
        | settings
    )
    config.train.update(
        batch_size=64, max_steps=steps, log_every=5, evaluate_every_epochs=0.25, epochs=30.0,
        checkpoint_every_epochs=0.4, warmup_epochs=0.0, learning_rate=3e-3,
    )  # fmt: skip
    config.report.map_points = 60
    return config


def watch(patch):
    """Name of each training -> what it was trained on; and "embedded", all outputs, in order."""
    found = {"embedded": []}
    train, embed = task.stages.train, embed_module.embed

    def watched(run, stage, **keywords):
        trained = train(run, stage, **keywords)
        found[stage.name] = (stage.split, stage.training.config, trained)
        return trained

    def embedded(training, state, split, *, keep):
        outputs = embed(training, state, split, keep=keep)
        # The classifier's of training images make a map, and nothing else.
        if "classifier" not in found or training is not found["classifier"][2].training:
            found["embedded"].append((len(split), keep, outputs))
        return outputs

    patch.setattr(task.stages, "train", watched)
    for module in (task, scored, embed_module):
        patch.setattr(module, "embed", embedded)
    return found


@pytest.fixture
def seen(monkeypatch):
    return watch(monkeypatch)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coreset")
    with pytest.MonkeyPatch.context() as patch:
        found = watch(patch)
        config = small()
        config.log.tensorboard = True
        results = run_module.run(config, folder)
    return folder, results, found


@pytest.fixture(scope="module")
def finished(watched):
    return watched[:2]


def of_training_images(seen, keep):
    """The outputs of all training images, embedding by embedding."""
    return [
        outputs[keep] for size, kept, outputs in seen["embedded"] if size == SIZE and keep in kept
    ]


@pytest.fixture(scope="module")
def train():
    return sources.load(small().data).splits["train"]


def test_findings_name_the_images_the_first_to_go_first(finished, train):
    folder, _ = finished
    with np.load(folder / "coreset.npz") as file:
        found = dict(file)
    np.testing.assert_array_equal(found["filenames_of_train"], train.names)
    with open(folder / "findings.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == np.argsort(found["scores"], kind="stable").tolist()
    for row in rows[::50]:
        number = int(row["row"])
        assert row["filename"] == str(train.names[number])
        assert row["label"] == ("0 to 4", "5 to 9")[train.coarse[number]]
        assert row["kept"] == ("yes" if found["stays"][number] else "no")
        assert float(row["score"]) == found["scores"][number]


def test_leaves_what_it_promises(finished, train, tmp_path):
    folder, results = finished
    assert results == json.loads((folder / "results.json").read_text(encoding="utf-8"))
    expected = {
        "dataset": "digits", "task": "coreset", "method": "ce", "coreset_method": "common_strata",
        "seed": 0, "fraction": 0.3, "kept_images": round(0.3 * SIZE), "steps": 3 * 8,
        "skipped_steps": 0,
    }  # fmt: skip
    assert {key: results[key] for key in expected} == expected
    assert results.keys() >= {"versions", "devices", "parameters", "validation_coarse_accuracy"}
    assert 0 < results["scoring_seconds"] < results["train_seconds"]
    names = [one.name for one in sorted(folder.iterdir()) if one.is_dir()]
    assert names == ["classifier", "sample_0", "sample_1", "tensorboard"]
    with np.load(folder / "coreset.npz") as file:
        stays, scores = file["stays"], file["scores"]
    assert stays.sum() == results["kept_images"]
    # In each class the highest scores stay.
    for label in (0, 1):
        members = train.coarse == label
        assert abs(stays[members].sum() - 0.3 * members.sum()) < 1
        assert scores[members & stays].min() >= scores[members & ~stays].max()
    for digit, share in results["kept_share"].items():
        assert share == pytest.approx(stays[train.fine == int(digit)].mean())
        each = results["fine_labels"][digit]
        assert each["train_images"] == (train.fine == int(digit)).sum()
        assert each["kept_images"] == stays[train.fine == int(digit)].sum()
    each = results["fine_labels"].values()
    assert results["worst_group_accuracy"] == min(one["accuracy"] for one in each)
    worst = results["fine_labels"][results["worst_group"]]
    assert worst["accuracy"] == results["worst_group_accuracy"]
    right = sum(one["accuracy"] * one["test_images"] for one in each)
    assert results["coarse_accuracy"] == pytest.approx(right / 359)
    report = (folder / "report.html").read_text(encoding="utf-8")
    for words in (
        *("Share kept of each fine label", "Training images dropped first"),
        *("Those that stay longest", "Training: sample 0", "Training: classifier"),
    ):
        assert words in report
    assert "Training: sample 1" not in report
    of_map = mapped(folder, tmp_path)
    assert [column.name for column in of_map.columns] == [
        *("coreset score", "kept", "fine label", "class", "predicted class", "right or wrong"),
    ]
    shown = of_map.layout.mapped
    np.testing.assert_array_equal(of_map.columns[0].values, scores[shown].astype(np.float32))
    np.testing.assert_array_equal(of_map.columns[1].values, stays[shown])
    np.testing.assert_array_equal(of_map.columns[2].values, train.fine[shown])


@pytest.mark.slow
def test_stopped_in_every_stage_it_comes_to_the_same_end(finished, tmp_path):
    folder, results = finished
    for module, name, replacement, left in (
        (task.stages, "make_step", stopping(task.stages.make_step, 6), "sample_0"),
        (task.stages, "make_step", stopping(task.stages.make_step, 6, number=2), "sample_1"),
        (chosen.coreset, "select", stopping_select(), "sample_1"),
        (task.stages, "make_step", stopping(task.stages.make_step, 6, number=3), "coreset.npz"),
        (task.ending.html, "write", stop, "classifier"),
    ):
        stopped(small(), tmp_path, module, name, replacement, left=left)
    other = small(fraction=0.5)
    with pytest.raises(ConfigError, match=r"another config.*(?s:.)*coreset\.fraction: 0\.3"):
        run_module.run(other, tmp_path)
    resumed = run_module.run(small(), tmp_path)
    assert untimed(resumed) == untimed(results)
    for stage in ("sample_0", "sample_1", "classifier"):
        assert records(tmp_path, stage) == records(folder, stage)
    for one in (tmp_path, folder):
        with np.load(one / "coreset.npz") as file:
            kept = dict(file)
        assert kept.keys() == {"stays", "scores", "labels_of_train", "filenames_of_train"}
    assert run_module.run(small(), tmp_path) == resumed


def stopping_select():
    """Fails where scores decide, not where the config is checked."""
    real = chosen.coreset.select

    def select(scores, *arguments, **keywords):
        if isinstance(scores, str):
            return real(scores, *arguments, **keywords)
        raise StopHereError

    return select


def test_common_strata_trains_on_halves_and_scores_by_their_probabilities(watched, train):
    folder, _, seen = watched
    trained_on = halves(train.coarse, 2, seed=0)
    for number, rows in enumerate(trained_on):
        split, one, _ = seen[f"sample_{number}"]
        np.testing.assert_array_equal(split.images, train.images[rows])
        np.testing.assert_array_equal(split.coarse, train.coarse[rows])
        assert one.seed == (number + 1) * 1_000_003  # never the classifier's
    probabilities = of_training_images(seen, "probability")
    assert len(probabilities) == 2
    own = [[float(p[i, c]) for i, c in enumerate(train.coarse)] for p in probabilities]
    expected = []
    for i in range(SIZE):
        inner, outer = (own[0][i], own[1][i]) if trained_on[0, i] else (own[1][i], own[0][i])
        expected.append(abs(inner - outer))
    with np.load(folder / "coreset.npz") as file:
        np.testing.assert_allclose(file["scores"], expected, atol=1e-12)
        np.testing.assert_array_equal(
            seen["classifier"][0].split.images, train.images[file["stays"]]
        )


@pytest.mark.slow
def test_el2n_averages_the_errors_of_networks_of_several_seeds(tmp_path, seen, no_report, train):
    run_module.run(small("el2n", steps=3, runs=2), tmp_path)
    probabilities = of_training_images(seen, "probability")
    assert len(probabilities) == 2
    assert np.abs(probabilities[0] - probabilities[1]).max() > 0.01
    assert all(len(seen[f"sample_{number}"][0]) == SIZE for number in range(2))
    lengths = [np.linalg.norm(p - np.eye(2)[train.coarse], axis=1) for p in probabilities]
    with np.load(tmp_path / "coreset.npz") as file:
        np.testing.assert_allclose(file["scores"], np.mean(lengths, axis=0), rtol=1e-6)


@pytest.mark.slow
def test_forgetting_counts_what_was_right_and_then_wrong_and_resumes(
    tmp_path, seen, no_report, train, monkeypatch
):
    config = small("forgetting", steps=8)
    # A checkpoint after 5 steps, and evaluations after 3 and 6: that of step 6 comes again.
    config.train.update(checkpoint_every_epochs=4.9 * 64 / SIZE)
    config.train.update(evaluate_every_epochs=2.9 * 64 / SIZE)
    whole = run_module.run(config, tmp_path / "whole")
    correct = np.array([p == train.coarse for p in of_training_images(seen, "prediction")])
    assert correct.shape == (3, SIZE)
    expected = [
        sum(a and not b for a, b in itertools.pairwise(history)) if any(history) else 3
        for history in correct.T.tolist()
    ]
    assert len(set(expected)) > 2
    with np.load(tmp_path / "whole" / "coreset.npz") as file:
        scores = file["scores"]
    np.testing.assert_array_equal(scores, expected)

    with monkeypatch.context() as patch:
        patch.setattr(task.stages, "make_step", stopping(task.stages.make_step, 7))
        with pytest.raises(StopHereError):
            run_module.run(config, tmp_path / "stopped")
    path = tmp_path / "stopped" / "representation" / workdir.CORRECT
    with np.load(path) as file:
        assert file["steps"].tolist() == [3, 6]
    assert untimed(run_module.run(config, tmp_path / "stopped")) == untimed(whole)
    with np.load(path) as file:
        assert file["steps"].tolist() == [3, 6, 8]
    with np.load(tmp_path / "stopped" / "coreset.npz") as file:
        np.testing.assert_array_equal(file["scores"], scores)


def test_what_was_right_is_kept_up_to_the_step(tmp_path):
    path = tmp_path / "correct.npz"
    rows = np.random.default_rng(0).random((4, 13)) < 0.5
    classes = np.arange(13) % 2
    for step, row in ((2, rows[0]), (4, rows[1]), (6, rows[1]), (4, rows[2]), (8, rows[3])):
        scored.append_correct(path, step, row, classes)
    with np.load(path) as file:
        assert file["steps"].tolist() == [2, 4, 8]
        found = np.unpackbits(file["packed"], axis=1, count=13).astype(bool)
    np.testing.assert_array_equal(found, rows[[0, 2, 3]])
    with pytest.raises(ConfigError, match=r"events of 13 train images.*now there are 12"):
        scored.append_correct(path, 9, rows[0, :12], classes[:12])
    with pytest.raises(ConfigError, match=r"events of train images of which 1 have other"):
        scored.append_correct(path, 9, rows[0], np.where(np.arange(13) == 3, 0, classes))


@pytest.mark.slow
def test_herding_picks_by_the_embedding(tmp_path, seen, no_report, train):
    results = run_module.run(small("herding", steps=4), tmp_path)
    (embeddings,) = of_training_images(seen, "embedding")
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    with np.load(tmp_path / "coreset.npz") as file:
        stays = file["stays"]
        assert file["scores"].shape == (0,)
    assert stays.sum() == results["kept_images"]
    for label in (0, 1):
        members = train.coarse == label
        mean = unit[members].mean(axis=0)
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(members))[:60]
        away = np.linalg.norm(unit[members & stays].mean(axis=0) - mean)
        assert away < np.linalg.norm(unit[drawn].mean(axis=0) - mean) / 3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("same_steps", [False, True])
def test_the_classifier_takes_as_many_epochs_or_steps(tmp_path, seen, no_report, same_steps):
    config = small("random", steps=0, same_steps=same_steps, fraction=0.5)
    config.train.epochs = 2.0
    results = run_module.run(config, tmp_path)
    kept = results["kept_images"]
    assert kept == 342
    assert results["steps"] == round(2 * (SIZE if same_steps else kept) / 64)
    assert results["scoring_seconds"] == 0
    split, _, trained = seen["classifier"]
    assert len(split) == kept
    assert trained.records[-1]["learning_rate"] < 1e-4  # the schedule ended
    assert [one.name for one in sorted(tmp_path.iterdir()) if one.is_dir()] == ["classifier"]


def test_all_images_are_a_coreset_of_share_one(train):
    assert chosen.choose(small("random", fraction=1.0), train.coarse).stays.all()


def test_trainings_by_which_images_are_scored_have_epochs_and_seeds_of_their_own():
    config = small(epochs=2.0)
    config.seed = 2**31 - 1
    found = [scored.scoring_config(config, number) for number in range(100)]
    assert {one.train.epochs for one in found} == {2.0}
    assert len({config.seed, *(one.seed for one in found)}) == 101
    for one in found:
        schema.check(one)
    config.coreset.epochs = 0.0
    assert scored.scoring_config(config, 0).train.epochs == config.train.epochs == 30
    config.coreset.update(method="el2n", el2n_epochs=3.0)
    assert scored.scoring_config(config, 0).train.epochs == 3


def without(dataset, coarse, stay):
    """The data set with `stay` training images of a class."""
    train = dataset.splits["train"]
    kept = np.sort(np.r_[np.flatnonzero(train.coarse != coarse),
                         np.flatnonzero(train.coarse == coarse)[:stay]])  # fmt: skip
    return dataset._replace(splits={**dataset.splits, "train": train.subset(kept)})


@pytest.mark.parametrize(
    ("settings", "train", "words"),
    [
        ({"runs": 3}, {}, r"coreset\.runs: expected an even number with .*'common_strata'.*got 3"),
        (
            {"method": "herding", "balanced": False},
            {},
            r"coreset\.balanced: expected True with coreset\.method 'herding'.*got False",
        ),
        (
            {"method": "forgetting", "epochs": 1.0},
            {"max_steps": 0, "evaluate_every_epochs": 1.0},
            r"_epochs: expected at least two evalu.* 11 steps .*'forgetting'.*every 1 epochs$",
        ),
        ({"fraction": 0.0005}, {}, r"coreset: fraction: expected one that keeps some of the 685"),
        ({"fraction": 0.0015}, {}, r"coreset: fraction: .* keeps none of the 3 images of class 1"),
    ],
    ids=["odd", "herding", "once", "nothing", "class"],
)
def test_what_cannot_be_run_is_refused_before_anything_is_compiled_or_written(
    settings, train, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(task.stages, "build", stop)
    config = small(**settings)
    config.train.update(**train)

    def load(data):
        dataset = sources.load(data)
        return without(dataset, 1, 3) if "class" in words else dataset

    with pytest.raises(ConfigError, match=words):
        run_module.run(config, tmp_path / "run", load=load)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_used_are_refused_likewise(tmp_path, monkeypatch):
    monkeypatch.setattr(task.stages, "build", stop)

    def one_class(data):
        return sources.load(data)._replace(coarse_names=("all",))

    with pytest.raises(ConfigError, match=r"at least two classes .*'coreset', got 1 in digits"):
        run_module.run(small(), tmp_path / "run", load=one_class)

    def on_disk(data):
        dataset = sources.load(data)
        dataset.splits["train"].in_memory = False
        return dataset

    config = small()
    config.train.resident = "yes"
    with pytest.raises(ConfigError, match=r"train\.resident: expected 'auto' or 'no'.*got 'yes'"):
        run_module.run(config, tmp_path / "run", load=on_disk)
    assert not (tmp_path / "run").exists()


def test_scores_that_leave_nothing_of_a_class_say_so():
    config = small(balanced=False, fraction=0.5)
    classes = np.repeat([0, 1], 4)
    scores = np.arange(8.0)
    with pytest.raises(ConfigError, match=r"0\.5, which keeps none of class 0 .* common_strata"):
        chosen.choose(config, classes, scores=scores)
    config.coreset.fraction = 0.75
    assert chosen.choose(config, classes, scores=scores).stays.tolist() == [False] * 2 + [True] * 6


def test_another_number_of_images_than_the_choice_was_of(finished):
    folder, _ = finished
    path = folder / "results.json"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    try:
        with pytest.raises(ConfigError, match=r"a choice of 685 train images.*there are 600"):
            run_module.run(
                small(), folder,
                load=lambda data: (d := sources.load(data))._replace(
                    splits={**d.splits, "train": d.splits["train"].subset(np.arange(600))}
                ),
            )  # fmt: skip
    finally:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_configs_are_of_the_task(name):
    config = config_of(name, "coreset")
    schema.check(config)
    assert config.task == "coreset"
    assert config.data.rare_fraction < 1  # or there is nothing to show


def test_its_log_has_the_results_and_all_images_of_the_map(finished):
    folder = finished[0] / "tensorboard"
    assert list(folder.glob("events*"))
    points = (folder / "projector" / "tensors.tsv").read_text(encoding="utf-8").splitlines()
    assert len(points) == 60  # report.map_points; the classifier has seen fewer images
