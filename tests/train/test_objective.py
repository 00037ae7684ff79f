"""What each method adds up, against the losses themselves on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thanos_jax import config as schema
from thanos_jax import losses, sharding
from thanos_jax.train import objective

BATCH, VIEWS, DIM, CLASSES = 16, 2, 5, 3


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
    keys = jax.random.split(jax.random.key(0), 6)
    z = jax.random.normal(keys[0], (BATCH, VIEWS, DIM))
    labels = jax.random.randint(keys[1], (BATCH,), 0, CLASSES)
    images = jax.random.normal(keys[2], (BATCH, VIEWS, 4, 4, 1))
    logits = tuple(jax.random.normal(k, (BATCH * VIEWS, CLASSES)) for k in keys[3:5])
    outputs = {"contrastive": z.reshape(BATCH * VIEWS, DIM), "logits": logits}
    if objective.METHODS[method].reconstruct:
        outputs["reconstruction"] = jax.random.normal(keys[5], (BATCH * VIEWS, 4, 4, 1))

    contrastive = objective.contrastive_loss(method, config, sharding.make_mesh())
    add_up = functools.partial(objective.total_loss, contrastive=contrastive, config=config)
    total, terms = jax.jit(add_up)(outputs, images, labels)

    rows = np.repeat(np.asarray(labels), VIEWS)
    cross_entropy = sum(
        optax.softmax_cross_entropy_with_integer_labels(x, rows).mean() for x in logits
    )
    expected = {"cross_entropy": cross_entropy}
    weighted = 1.3 * cross_entropy
    pairs = _expected_contrastive(method, z, labels, config)
    if pairs is not None:
        expected["contrastive"] = pairs
        weighted += 0.7 * pairs
    if "reconstruction" in outputs:
        flat = images.reshape(BATCH * VIEWS, 4, 4, 1)
        expected["reconstruction"] = jnp.mean((flat - outputs["reconstruction"]) ** 2)
        weighted += 0.4 * expected["reconstruction"]
    assert set(terms) == {*expected, "loss", "coarse_accuracy"}
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, weighted, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], weighted, rtol=1e-5)


def test_prediction_averages_probabilities_of_the_classifiers():
    sure, unsure = jnp.array([[0.0, 9.0]]), jnp.array([[0.5, 0.0]])
    assert objective.predict_coarse((unsure,)).tolist() == [0]
    assert objective.predict_coarse((sure, unsure)).tolist() == [1]


@pytest.mark.parametrize("method", ["ce", "cauto"])
def test_methods_without_a_contrastive_loss_have_none(method):
    mesh = sharding.make_mesh()
    assert objective.contrastive_loss(method, schema.default().loss, mesh) is None
