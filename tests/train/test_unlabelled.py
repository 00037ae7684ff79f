"""Images without labels in the objective: what they change, and what they leave as it is."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from trainings import DATASET, SHAPE, make_mesh, small_training

from thanos_jax import config as schema
from thanos_jax import losses, sharding
from thanos_jax.data.splits import ArraySplit
from thanos_jax.data.unlabelled import NO_LABEL
from thanos_jax.train import build, objective, two_views

BATCH, VIEWS, DIM, CLASSES = 16, 2, 5, 3
LABELS = np.array([0, 1, 2, -1] * 4, np.int32)
LEARNING = ("thanos", "info_nce", "cauto", "joint", "supcon_cauto", "supcon_info_nce")


@functools.cache
def inputs():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(BATCH * VIEWS, DIM)).astype(np.float32)
    logits = rng.normal(size=(BATCH * VIEWS, CLASSES)).astype(np.float32)
    images, made = rng.normal(size=(2, BATCH, VIEWS, 4, 4, 1)).astype(np.float32)
    return {"contrastive": z, "logits": (logits,), "reconstruction": made.reshape(-1, 4, 4, 1)}, (
        images
    )


def settings():
    config = schema.default().loss
    config.update(alpha=0.3, beta=0.8, temperature=0.4, contrastive_weight=0.7,
                  cross_entropy_weight=1.3, reconstruction_weight=0.4)  # fmt: skip
    return config


def gradient(method, labels, *, unlabelled):
    config, (outputs, images) = settings(), inputs()
    if not objective.METHODS[method].reconstruct:
        outputs = {name: outputs[name] for name in ("contrastive", "logits")}
    contrastive = objective.contrastive_loss(
        method, config, sharding.make_mesh(), unlabelled=unlabelled
    )

    def total(outputs):
        return objective.total_loss(
            outputs, images, labels, contrastive=contrastive, config=config,
            labelled=np.sum(labels != NO_LABEL) if unlabelled else None,
        )  # fmt: skip

    (value, terms), found = jax.jit(jax.value_and_grad(total, has_aux=True))(outputs)
    return value, terms, found


def expected(method):
    """Each loss of the images that it is of, by the public losses."""
    config, (outputs, images) = settings(), inputs()
    has = LABELS >= 0
    options = {"temperature": config.temperature}
    rows = np.repeat(LABELS, VIEWS)
    logits = outputs["logits"][0][rows >= 0]

    def contrastive(z):
        supcon = losses.supcon(z[has], LABELS[has], **options)
        info_nce = losses.info_nce(z, **options)
        return {
            "cauto": 0.0, "info_nce": info_nce, "supcon_info_nce": supcon + info_nce,
            "supcon_cauto": supcon, "joint": 0.8 * supcon + 0.2 * info_nce,
            "thanos": losses.spread(z[has], LABELS[has], alpha=config.alpha, **options),
        }[method]  # fmt: skip

    largest = logits.max(axis=1, keepdims=True)
    normal = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    each = normal - logits[np.arange(len(logits)), rows[rows >= 0]]
    total = 0.7 * jax.jit(contrastive)(outputs["contrastive"].reshape(BATCH, VIEWS, DIM))
    total += 1.3 * each.mean()
    if objective.METHODS[method].reconstruct:
        flat = images.reshape(-1, 4, 4, 1)
        total += 0.4 * np.mean((flat - outputs["reconstruction"]) ** 2)
    return total, each.mean(), np.mean(logits.argmax(axis=1) == rows[rows >= 0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", LEARNING)
def test_each_loss_is_of_the_images_that_it_can_be_of(method):
    value, terms, found = gradient(method, LABELS, unlabelled=True)
    total, cross_entropy, accuracy = expected(method)
    np.testing.assert_allclose(value, total, rtol=2e-5)
    np.testing.assert_allclose(terms["cross_entropy"], cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(terms["coarse_accuracy"], accuracy, rtol=1e-6)
    without = np.repeat(LABELS < 0, VIEWS)
    parts = {"z": found["contrastive"], "logits": found["logits"][0]}
    moved = {name: np.abs(np.asarray(part)).max(axis=1) for name, part in parts.items()}
    # They carry gradient where a loss needs no labels, and none where it does.
    assert (moved["logits"][without] == 0).all()
    assert (moved["logits"][~without] > 0).all()
    if objective.METHODS[method].instances:
        assert (moved["z"] > 0).all()
    else:
        assert (moved["z"][without] == 0).all()
    if "reconstruction" in found:
        assert (np.abs(np.asarray(found["reconstruction"])).max(axis=(1, 2, 3)) > 0).all()


def test_methods_that_learn_from_them():
    config = schema.default()
    split, train = (
        ArraySplit(np.zeros((n, *SHAPE), np.uint8), np.zeros(n, int), np.zeros(n, int))
        for n in (7, 40)
    )
    dataset = DATASET._replace(splits={"train": train})
    for name, method in objective.METHODS.items():
        config.method = name
        sizes = [
            len(build.training_split(config, dataset._replace(unlabelled=unlabelled)))
            for unlabelled in (None, split)
        ]
        assert sizes == [40, 47 if name in LEARNING else 40]
        assert method.learns_without_labels == (name in LEARNING)


class Flat(nn.Module):
    """One layer, whose result is the logits and the contrastive embedding too."""

    @nn.compact
    def __call__(self, images, *, train):
        logits = nn.Dense(CLASSES)(images.reshape(len(images), -1))
        return {"logits": (logits,), "contrastive": logits}


@pytest.mark.slow
def test_chunks_of_a_batch_count_labels_as_the_batch_does():
    """Of each chunk another number has labels; the cross-entropy is still the batch's mean."""
    config = schema.default()
    config.method = "supcon_info_nce"
    config.augment.update(crop_scale=(1.0, 1.0), flip=0.0, jitter_probability=0.0,
                          grey_probability=0.0)  # fmt: skip
    config.train.batch_size = 8
    rng = np.random.default_rng(1)
    batch = {
        "image": rng.integers(0, 256, (8, *SHAPE), np.uint8),
        "coarse": np.array([0, 1, 2, -1, -1, -1, -1, 1], np.int32),
        "augment": jax.random.key(0),
        "dropout": jax.random.key(1),
    }
    split = ArraySplit(batch["image"], np.zeros(8, int), np.zeros(8, int))
    dataset = DATASET._replace(splits={"train": split}, unlabelled=split)
    found = []
    for chunk in (0, 4):
        config.train.micro_batch_size = chunk
        training = small_training(config, model=Flat(), dataset=dataset, mesh=make_mesh(2))
        with jax.set_mesh(training.mesh):
            differentiate = jax.jit(two_views.two_views(training).differentiate)
            (value, (metrics, _)), slope = differentiate(training.state, batch)
        found.append((value, metrics["cross_entropy"], metrics["coarse_accuracy"], slope))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)
