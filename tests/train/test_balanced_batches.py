"""Class-balanced batches in a training: the labels it trains on, on host and devices, in errors."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from trainings import make_mesh

from thanos_jax import config as schema
from thanos_jax.data import relabelled, sources
from thanos_jax.data.annotated import annotate
from thanos_jax.data.balanced import ClassBalance
from thanos_jax.data.batches import sample_indices
from thanos_jax.data.dataset import known_coarse, labels
from thanos_jax.data.splits import ArraySplit, DerivedSplit
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import stages
from thanos_jax.train import build, metrics, nonfinite, resident


def config_of(each, batch_size=128, **data):
    config = schema.default()
    config.model.encoder = "mlp"
    config.data.update(data)
    config.train.update(batch_size=batch_size, images_per_class=each)
    schema.check(config)
    return config


@pytest.fixture(scope="module")
def digits():
    return {name: sources.load(config_of(0, classes=name).data) for name in ("coarse", "fine")}


@pytest.mark.parametrize(("classes", "each"), [("coarse", 64), ("fine", 16)])
def test_the_classes_are_the_labels_trained_on(classes, each, digits):
    config, dataset = config_of(each, classes=classes), digits[classes]
    balance = build.balanced_classes(config, dataset)
    split = dataset.splits["train"]
    rows = balance.draw(seed=0, step=5, batch_size=128, size=len(split))
    in_batch = split.read(rows)
    assert set(np.unique(in_batch["coarse"], return_counts=True)[1]) == {each}
    if classes == "coarse":
        assert len(set(in_batch["fine"].tolist())) > 2
    lines = "\n".join(build.describe(config, dataset, images=len(split)))
    assert f"steps of 128 images ({128 // each} classes, {each} of each)," in lines


def test_wrong_labels_are_balanced_as_they_are_given(digits):
    dataset, generator = digits["coarse"], np.random.default_rng(0)
    given = generator.integers(0, 3, len(dataset.splits["train"])).astype(np.int32)
    noisy = dataset._replace(
        splits={**dataset.splits, "train": relabelled.relabel(dataset.splits["train"], given)},
        coarse_names=("a", "b", "c"),
    )
    balance = build.balanced_classes(config_of(32, 96), noisy)
    rows = balance.draw(seed=0, step=1, batch_size=96, size=len(given))
    assert np.bincount(given[rows]).tolist() == [32, 32, 32]


def test_a_classifier_draws_images_as_its_task_asks(digits):
    one = stages.classifier_config(config_of(64))
    assert one.train.images_per_class == 0
    assert build.balanced_classes(one, digits["coarse"]) is None


def test_more_classes_than_there_are_is_refused(digits):
    expected = (
        r"config\.train\.images_per_class: expected 0 or 64 at least, with train\.batch_size = 128 "
        r"and digits, which has training images of 2 classes, got 16"
    )
    for refuse in (build.balanced_classes, lambda *given: build.describe(*given, images=9)):
        with pytest.raises(ConfigError, match=expected):
            refuse(config_of(16), digits["coarse"])
    # A class without images is none.
    whole = digits["fine"].splits["train"]
    few = whole.subset(np.flatnonzero(whole.fine > 2))
    dataset = digits["fine"]._replace(splits={**digits["fine"].splits, "train": few})
    with pytest.raises(ConfigError, match=r"or 32 at least, .* images of 7 classes, got 16"):
        build.balanced_classes(config_of(16, classes="fine"), dataset)
    assert len(build.balanced_classes(config_of(32, classes="fine"), dataset).sizes) == 7
    alone = whole.subset(np.flatnonzero(whole.fine == 2))
    dataset = dataset._replace(splits={**dataset.splits, "train": alone})
    with pytest.raises(ConfigError, match=r"expected 0, with .* images of 1 classes, got 32"):
        build.balanced_classes(config_of(32, classes="fine"), dataset)


def test_rare_classes_are_named_before_the_run(digits):
    whole = digits["fine"].splits["train"]
    few = whole.subset(np.flatnonzero((whole.fine != 4) | (np.arange(len(whole)) < 60)))
    dataset = digits["fine"]._replace(splits={**digits["fine"].splits, "train": few})
    lines = build.describe(config_of(16, 160, classes="fine"), dataset, images=len(few))
    expected = "(10 classes, 16 of each), which repeat images of 1 classes that have fewer than 16"
    assert expected in "\n".join(lines)


def small(size=40):
    labels = (np.arange(size) ** 2 % 7).astype(np.int32)  # 0, 1, 2 and 4
    images = np.arange(size, dtype=np.uint8)[:, None, None, None]
    return ArraySplit(images, labels, labels), ClassBalance(labels, images_per_class=4)


def test_devices_gather_the_same_batches():
    split, balance = small()

    def step(state, batch, seed):
        rows = batch["image"][:, 0, 0, 0].astype(jnp.int32)
        return state + 1, {"rows": rows.sum(), "squares": (rows**2).sum(), "first": rows[0]}

    window = resident.make_window(
        step, split, make_mesh(2), seed=3, batch_size=16, longest=5, inputs=("image",),
        balance=balance,
    )  # fmt: skip
    _, found = window(jnp.zeros(()), 2, 7)
    for number, row in enumerate(range(2, 7)):
        rows = balance.draw(seed=3, step=row, batch_size=16, size=40)
        expected = [rows.sum(), (rows**2).sum(), rows[0]]
        assert [int(found[name][number]) for name in ("rows", "squares", "first")] == expected


def test_a_step_that_fails_names_its_images(tmp_path):
    config, (split, balance) = config_of(4, 16), small()
    guard = nonfinite.Guard(config, split, tmp_path, epoch_size=40, balance=balance)
    with pytest.raises(metrics.NonFiniteError, match="step 9"):
        guard.check(9, {"loss": np.array([np.nan], np.float32)}, None)
    report = json.loads((tmp_path / nonfinite.FILE).read_text(encoding="utf-8"))
    expected = sample_indices(seed=0, step=8, batch_size=16, size=40, balance=balance)
    assert report["train_indices"] == expected.tolist()


def test_labels_that_are_known_without_reading():
    split, _ = small()
    numbers = np.array([3, 3, 0, 39])
    for derived, expected in (
        (split, split.coarse),
        (annotate(split, {"weight": np.ones(40)}, numbers), split.coarse[numbers]),
        (DerivedSplit(split, {"coarse": np.arange(40)}, numbers), numbers),
        (DerivedSplit(DerivedSplit(split, numbers=numbers), numbers=np.array([3])), [2]),
    ):
        np.testing.assert_array_equal(known_coarse(derived), expected)
        np.testing.assert_array_equal(known_coarse(derived), labels(derived)[1])
    changed = DerivedSplit(split, change=lambda batch, _: {**batch, "coarse": batch["fine"] + 1})
    assert known_coarse(changed) is None
    np.testing.assert_array_equal(labels(changed, chunk=7)[1], split.coarse + 1)
