"""Losses of wrong labels: early learning and small losses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from robust_oracle import expect_targets, softmax

from thanos_jax.losses import robust


@functools.cache
def regularization():
    return jax.jit(jax.value_and_grad(robust.early_learning_regularization))


def test_regularization_near_its_bottom():
    """<p, t> is 1 in float32, and log(1 - <p, t>) has all its digits; the gradient is bounded."""
    logits = np.array([[40.0, 0.0, 1.0], [-90.0, 90.0, -200.0]], np.float32)
    targets = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    value, gradient = regularization()(logits, targets)
    wide = logits.astype(np.float64)
    rest = [np.log(softmax(wide)[0, 1:].sum()), np.log(softmax(wide)[1, [0, 2]].sum())]
    np.testing.assert_allclose(value, np.mean(rest), rtol=1e-6)
    assert np.all(np.abs(gradient) <= 0.5)
    np.testing.assert_allclose(gradient[1], [0.5, -0.5, 0], atol=1e-6)
    same, _ = regularization()(logits, np.nextafter(targets, np.float32(2)))
    np.testing.assert_allclose(same, value, rtol=1e-6)


def test_regularization_at_its_top():
    """No targets yet, as before the first update."""
    logits = np.random.default_rng(3).normal(size=(2, 3)).astype(np.float32)
    value, gradient = regularization()(logits, np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_targets_over_steps():
    """From 0 towards the clamped softmax; a sure model leaves (1 - <p, t>) well above 0."""
    logits = np.array([[30.0, 0.0, 0.0], [0.5, 0.2, 0.1]], np.float32)
    targets = expected = np.zeros((2, 3), np.float32)
    update = jax.jit(functools.partial(robust.update_targets, momentum=0.6))
    for _ in range(4):
        targets = update(targets, logits)
        expected = expect_targets(expected, logits, 0.6)
    np.testing.assert_allclose(targets, expected, rtol=1e-5)
    np.testing.assert_allclose(np.sum(targets, axis=1), 1 - 0.6**4, rtol=1e-5)
    logits, targets = (np.repeat(np.asarray(x)[:1], 2, axis=0) for x in (logits, targets))
    value, _ = regularization()(logits, targets)
    np.testing.assert_allclose(value, np.log(1 - expected[0, 0]), rtol=1e-4)


def test_targets_are_constants():
    def value(logits, targets):
        targets = robust.update_targets(targets, logits)
        return jnp.sum(targets) + robust.early_learning_regularization(jnp.zeros((2, 3)), targets)

    gradients = jax.jit(jax.grad(value, argnums=(0, 1)))(jnp.ones((2, 3)), jnp.full((2, 3), 0.2))
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, gradients))


def test_how_many_are_kept():
    """Every percentage of many counts, against whole numbers; rates also as 1 - forget rate."""
    counts, percents = np.array([1, 2, 3, 7, 10, 25, 64, 99, 100, 128]), np.arange(101)
    values = np.random.default_rng(4).permutation(128).astype(np.float32)
    where = np.arange(128) < counts[:, None]

    def number(rate, where):
        return jnp.sum(robust.small_loss_selection(values, rate, where=where))

    select = jax.jit(jax.vmap(jax.vmap(number, (None, 0)), (0, None)))
    expected = -(-percents[:, None] * counts // 100)
    forgotten = (np.float32(100) - percents.astype(np.float32)) / np.float32(100)
    for rates in (percents.astype(np.float32) / np.float32(100), np.float32(1) - forgotten):
        np.testing.assert_array_equal(select(rates, where), expected)


@pytest.mark.parametrize(
    ("values", "rate", "expected"),
    [
        ([1, 1, 1, 1], 0.5, [1, 1, 0, 0]),
        ([2, 1, 2, 0, 2], 0.6, [1, 1, 0, 1, 0]),
        ([np.nan, np.inf, 3, -np.inf], 0.75, [0, 1, 1, 1]),
        ([np.nan, 1, np.nan, 0], 0.75, [1, 1, 0, 1]),
        ([0.0, -0.0, 1.0], 1 / 3, [1, 0, 0]),
        ([5, 4], 0.01, [0, 1]),
    ],
)
def test_ties_and_order(values, rate, expected):
    chosen = robust.small_loss_selection(np.array(values, np.float32), rate)
    assert chosen.tolist() == [bool(x) for x in expected]


def test_infinite_losses_before_padding():
    values, where = (
        np.array([0, np.inf, 1, np.inf], np.float32),
        np.array([False, True, False, True]),
    )
    assert robust.small_loss_selection(values, 0.5, where=where).tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert robust.small_loss_selection(values, 1, where=where).tolist() == where.tolist()


def test_selection_inside_a_loss():
    """Of a loss it is the mask, with no gradient of its own."""
    other = np.array([0.1, 3.0, 0.2, 0.3], np.float32)

    def loss(values):
        chosen = robust.small_loss_selection(values, 0.5)
        return robust.weighted_mean(values + other, jnp.ones(4), where=chosen)

    value, gradient = jax.value_and_grad(loss)(np.array([4.0, 1.0, 3.0, 2.0], np.float32))
    np.testing.assert_allclose(value, (1.0 + 3.0 + 2.0 + 0.3) / 2, rtol=1e-6)
    assert gradient.tolist() == [0, 0.5, 0, 0.5]
