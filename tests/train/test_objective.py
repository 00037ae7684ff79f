"""What each method adds up, against the losses themselves on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import losses, sharding
from thanos_jax.models import thanos
from thanos_jax.train import objective

BATCH, VIEWS, DIM, CLASSES = 16, 2, 5, 3


def _log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def _expected_contrastive(method, z, labels, config):
    supcon = losses.supcon(z, labels, temperature=config.temperature)
    spreading = losses.class_conditional_info_nce(z, labels, temperature=config.temperature)
    info_nce = losses.info_nce(z, temperature=config.temperature)
    return {
        "ce": None,
        "info_nce": info_nce,
        "supcon": supcon,
        "supcon_info_nce": supcon + info_nce,
        "cauto": None,
        "spread": (1 - config.alpha) * supcon + config.alpha * spreading,
        "supcon_cauto": supcon,
        "thanos": (1 - config.alpha) * supcon + config.alpha * spreading,
        "joint": config.beta * supcon + (1 - config.beta) * info_nce,
    }[method]


@pytest.mark.parametrize("method", objective.METHODS)
def test_terms_and_weights_of_every_method(method):
    config = schema.default().loss
    config.update(alpha=0.3, beta=0.8, temperature=0.2, contrastive_weight=0.7,
                  cross_entropy_weight=1.3, reconstruction_weight=0.4)  # fmt: skip
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    z, images = normal(BATCH, VIEWS, DIM), normal(BATCH, VIEWS, 4, 4, 1)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    logits = tuple(normal(BATCH * VIEWS, CLASSES) for _ in range(2))
    outputs = {"contrastive": z.reshape(BATCH * VIEWS, DIM), "logits": logits}
    if objective.METHODS[method].reconstruct:
        outputs["reconstruction"] = normal(BATCH * VIEWS, 4, 4, 1)

    contrastive = objective.contrastive_loss(method, config, sharding.make_mesh())
    add_up = functools.partial(objective.total_loss, contrastive=contrastive, config=config)
    total, terms = jax.jit(add_up)(outputs, images, labels)

    rows = np.repeat(labels, VIEWS)
    cross_entropy = sum(-np.mean(_log_softmax(x)[np.arange(len(rows)), rows]) for x in logits)
    expected = {"cross_entropy": cross_entropy}
    weighted = 1.3 * cross_entropy
    pairs = _expected_contrastive(method, z, labels, config)
    if pairs is not None:
        expected["contrastive"] = pairs
        weighted += 0.7 * pairs
    if "reconstruction" in outputs:
        flat = images.reshape(BATCH * VIEWS, 4, 4, 1)
        expected["reconstruction"] = np.mean((flat - outputs["reconstruction"]) ** 2)
        weighted += 0.4 * expected["reconstruction"]
    assert set(terms) == {*expected, "loss", "coarse_accuracy"}
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, weighted, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], weighted, rtol=1e-5)


def test_prediction_averages_probabilities_of_the_classifiers():
    sure, unsure = jnp.array([[0.0, 9.0]]), jnp.array([[0.5, 0.0]])
    assert thanos.predict_coarse((unsure,)).tolist() == [0]
    assert thanos.predict_coarse((sure, unsure)).tolist() == [1]


@pytest.mark.parametrize("method", ["ce", "cauto"])
def test_methods_without_a_contrastive_loss_have_none(method):
    mesh = sharding.make_mesh()
    assert objective.contrastive_loss(method, schema.default().loss, mesh) is None
