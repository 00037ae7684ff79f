"""Losses of groups: means, weights and the worst-case loss; weights of images."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads
from robust_oracle import expect_weights

from thanos_jax.losses import robust


def test_rows_of_no_group():
    """Traced groups cannot be checked: what is no group is left out, whatever the dtype."""
    means = jax.jit(robust.group_means, static_argnums=2)
    values = np.array([1, 2, 3, 4, 5], np.float32)
    for groups in (np.array([0, -1, 1, 7, 0]), np.array([0, 255, 1, 2, 0], np.uint8),
                   np.array([0, 2**32 - 1, 1, 2**31, 0], np.uint32)):  # fmt: skip
        computed, counts = means(values, groups, 2)
        assert (computed.tolist(), counts.tolist()) == ([3, 3], [2, 1])
    _, counts = means(np.ones(3, np.float32), np.array([0, 1, 255], np.uint8), 300)
    assert counts[255] == 1
    assert np.sum(counts) == 3


def test_absent_groups_have_no_loss():
    """As in the authors' code: the factor of a group without rows is exp(step C / sqrt(n)) only."""
    group_losses, counts = np.array([1.0, np.nan, 2.0], np.float32), np.array([3, 0, 1])
    weights = np.array([0.2, 0.5, 0.3], np.float32)
    computed = robust.group_dro_weights(
        weights, group_losses, counts, step_size=0.1, adjustment=3.0, group_sizes=[9, 4, 1]
    )
    expected = expect_weights(weights, [1, 0, 2], 0.1, 3.0, [9, 4, 1])
    np.testing.assert_allclose(computed, expected, rtol=1e-6)
    computed = robust.group_dro_weights(weights, group_losses, counts, step_size=0.1)
    np.testing.assert_allclose(
        computed, expect_weights(weights, [1, 0, 2], 0.1, 0, [1] * 3), rtol=1e-6
    )


def test_group_without_training_images():
    computed = robust.group_dro_weights(
        jnp.ones(2),
        jnp.zeros(2),
        jnp.array([1, 0]),
        adjustment=1.0,
        step_size=1.0,
        group_sizes=[4, 0],
    )
    np.testing.assert_allclose(
        computed, [np.exp(0.5) / (1 + np.exp(0.5)), 1 / (1 + np.exp(0.5))], rtol=1e-6
    )


@functools.cache
def many_steps():
    """(weights, group_losses) -> weights after 10,000 steps of the same losses."""

    def run(weights, group_losses):
        def step(weights, _):
            return robust.group_dro_weights(weights, group_losses, jnp.ones(3)), None

        return lax.scan(step, weights, length=10_000)[0]

    return jax.jit(run)


def test_many_steps():
    """10,000 steps are one of 10,000 times the size."""
    weights, group_losses = np.full(3, 1 / 3, np.float32), np.array([1.0, 1.01, 0.9], np.float32)
    expected = expect_weights(weights, group_losses - 1.0, 100.0, 0, [1] * 3)
    np.testing.assert_allclose(many_steps()(weights, group_losses), expected, rtol=2e-3)


def test_weights_come_back():
    """In so many steps a weight is rounded to 0; a group that turns bad has to rise from there."""
    weights = np.array([0.5, 0.5, 0.0], np.float32)
    late = many_steps()(weights, np.array([2.0, 0.5, 9.0], np.float32))
    assert np.all(np.isfinite(late))
    assert late[0] == 1
    assert 0 < late[1] < 1e-37
    assert late[2] == 0  # what is left out by the caller stays out
    back = many_steps()(late, np.array([0.5, 2.0, 9.0], np.float32))
    np.testing.assert_allclose(back, [0, 1, 0], atol=1e-6)


def test_large_steps():
    updated = robust.group_dro_weights(
        jnp.array([0.25, 0.75]), jnp.array([3e4, 2e4]), jnp.ones(2), step_size=1.0
    )
    assert np.isfinite(updated).all()
    np.testing.assert_allclose(updated, [1, 0], atol=1e-30)


def test_weights_are_constants():
    """The gradient of the loss by a value is q_g / n_g, of weights and their step nothing."""
    values, groups = np.array([1.0, 2.0, 4.0], np.float32), np.array([0, 1, 1])

    def loss(values, weights, step_size):
        return robust.group_dro(values, groups, weights, step_size=step_size)[0]

    weights = np.array([0.4, 0.6], np.float32)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(values, weights, 1.0)
    updated = expect_weights(weights, [1, 3], 1.0, 0, [1, 1])
    np.testing.assert_allclose(gradients[0], updated[groups] / [1, 2, 2], rtol=1e-6)
    assert np.all(gradients[1] == 0)
    assert gradients[2] == 0


def test_check_grads():
    """Both modes and second derivatives; with no step, as its weights are held constant."""
    groups, weights = np.array([0, 2, 2]), jnp.array([0.2, 0.3, 0.5])
    targets = jnp.array([[0.2, 0.3, 0.4], [0.9, 0.1, 0.0], [0.5, 0.4, 0.0]])

    @jax.jit
    def loss(logits):
        values = jnp.sum(logits**3, axis=1)
        robust_loss, _ = robust.group_dro(values, groups, weights, step_size=0.0)
        return robust_loss + robust.early_learning_regularization(logits, targets)

    logits = jnp.array([[0.1, -0.4, 0.8], [1.5, 0.2, -0.3], [0.6, 0.7, -0.2]])
    check_grads(loss, (logits,), order=1, rtol=0.02)
    check_grads(jax.jit(jax.grad(loss)), (logits,), order=1, modes=("fwd",), rtol=0.02)


def test_expectation_of_duplication():
    """Over all batches of rows, the mean over the training set with its rows duplicated."""
    values = np.array([0.3, 2.0, 0.1, 5.0, 0.7])
    times = np.array([1, 4, 1, 1, 2])  # how often each image is in the larger set
    duplicated = np.mean(np.repeat(values, times))
    batches = np.array(list(itertools.combinations(range(5), 3)))
    weights = (times / times.mean()).astype(np.float32)
    computed = jax.vmap(robust.weighted_mean)(values.astype(np.float32)[batches], weights[batches])
    np.testing.assert_allclose(np.mean(computed), duplicated, rtol=1e-6)


def test_integer_sample_weights():
    assert robust.weighted_mean(jnp.array([1.0, 2.0]), [3, 4]) == 5.5


def test_gradient_by_sample_weights():
    """They may be learnt."""
    gradient = jax.grad(robust.weighted_mean, argnums=1)(jnp.array([1.0, 3.0]), jnp.ones(2))
    assert gradient.tolist() == [0.5, 1.5]
