"""First derivatives against differences of the oracle, higher ones against jax's own checks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from thanos_jax import losses

ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)
IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
VIEWS = pytest.mark.parametrize("views", ["all", "cross"])
LABELS = np.array([1, 0, 1, 2, 0, 1], np.int32)
WHERE = np.array([True, True, True, True, False, True])


def scalars(loss):
    """What can be learnt beside the embeddings: temperature, and alpha or beta."""
    weights = {name: loss.options[name] for name in ("alpha", "beta") if name in loss.options}
    return {"temperature": 0.3, **weights}


@functools.cache
def compiled(loss, implementation, views, normalize=True):
    """Value and gradients for embeddings and scalars."""

    def value(embeddings, numbers, labels, where):
        return loss.call(
            losses, embeddings, labels, where=where, views=views, normalize=normalize,
            implementation=implementation, **numbers,
        )  # fmt: skip

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))


def expected_gradients(loss, embeddings, numbers, labels, where, **keywords):
    expect = functools.partial(loss.expect, labels=labels, where=where, **keywords)
    by_number = {
        name: oracle.differentiate(
            lambda x, name=name: expect(embeddings, **{**numbers, name: float(x)}), value
        )
        for name, value in numbers.items()
    }
    return oracle.differentiate(lambda z: expect(z, **numbers), embeddings), by_number


def assert_close_in_norm(computed, expected, relative):
    """Each gradient within `relative` of the length of the expected one."""
    for have, want in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(
            np.asarray(have, np.float64), want, rtol=0, atol=relative * (np.linalg.norm(want) + 0.1)
        )


@pytest.mark.sampled(10)
@ROWS
@IMPLEMENTED
@VIEWS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_differences(loss, implementation, views, dtype):
    """Embeddings, temperature, alpha and beta at once, with a singleton and a padded image."""
    embeddings = oracle.embeddings_like(2, seed=1, dtype=np.dtype(dtype))
    with jax.enable_x64(dtype == "float64"):
        numbers = {name: np.asarray(x, dtype) for name, x in scalars(loss).items()}
        arguments = (embeddings, numbers, LABELS, WHERE)
        _, computed = compiled(loss, implementation, views)(*arguments)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(computed)} == {dtype}
    expected = expected_gradients(loss, *arguments, views=views)
    assert_close_in_norm(computed, expected, 1e-5 if dtype == "float32" else 1e-8)


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
def test_without_normalization(loss, implementation):
    embeddings = oracle.embeddings_like(2, seed=2)
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    arguments = (embeddings, numbers, LABELS, WHERE)
    _, computed = compiled(loss, implementation, "all", False)(*arguments)
    expected = expected_gradients(loss, *arguments, normalize=False)
    assert_close_in_norm(computed, expected, 2e-5)


@ROWS
@IMPLEMENTED
def test_duplicates_and_antipodes(loss, implementation):
    """Cosines of exactly 1 and -1 are smooth points of the loss."""
    embeddings = oracle.embeddings_like(2, seed=3)
    embeddings[2] = embeddings[0]
    embeddings[1] = -embeddings[0]
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    arguments = (embeddings, numbers, LABELS, WHERE)
    _, computed = compiled(loss, implementation, "all")(*arguments)
    assert_close_in_norm(computed, expected_gradients(loss, *arguments), 1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("loss", [oracle.BY_NAME["spread"], oracle.BY_NAME["attract"]], ids=repr)
@IMPLEMENTED
def test_half_precision(loss, implementation, dtype):
    """The gradient comes back in the embeddings' dtype, right to its rounding."""
    embeddings = jnp.asarray(oracle.embeddings_like(2, seed=4), dtype)
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    arguments = (embeddings, numbers, LABELS, WHERE)
    _, (computed, _) = compiled(loss, implementation, "all")(*arguments)
    assert computed.dtype == embeddings.dtype
    expected, _ = expected_gradients(loss, *arguments)
    assert_close_in_norm(np.asarray(computed, np.float64), expected, float(jnp.finfo(dtype).eps))


@ROWS
@IMPLEMENTED
@VIEWS
def test_padding(loss, implementation, views):
    """Padding has gradient 0 and leaves all others' alone, even when it holds NaN or infinity."""
    call = compiled(loss, implementation, views)
    embeddings = oracle.embeddings_like(2, seed=5)
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    value, gradients = call(embeddings, numbers, LABELS, WHERE)
    chex.assert_tree_all_finite((value, gradients))
    # Images 0 and 2 share a class; a class of one image has nothing to spread.
    assert np.all(np.any(np.asarray(gradients[0])[[0, 2]] != 0, axis=-1))
    for filler in (0.0, 1e30, np.inf, np.nan):
        broken = np.where(WHERE[:, None, None], embeddings, np.float32(filler))
        broken_value, broken_gradients = call(broken, numbers, LABELS, WHERE)
        chex.assert_trees_all_close(broken_value, value, rtol=1e-6)
        chex.assert_trees_all_close(broken_gradients, gradients, rtol=1e-6, atol=1e-7)
        assert not np.any(np.asarray(broken_gradients[0])[~WHERE])


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
@pytest.mark.parametrize(
    ("views", "normalize"),
    oracle.chosen(
        [("all", True), ("cross", True), ("all", False)], ["all", "cross"], [True, False]
    ),
)
def test_zero_vectors(loss, implementation, views, normalize):
    """The slope of z / |z| at 0 is not finite; the loss's is."""
    call = compiled(loss, implementation, views, normalize)
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    embeddings = oracle.embeddings_like(2, seed=6)
    embeddings[0, 0] = 0
    embeddings[3] = 0
    chex.assert_tree_all_finite(call(embeddings, numbers, LABELS, WHERE))
    chex.assert_tree_all_finite(call(np.zeros_like(embeddings), numbers, LABELS, WHERE))


@ROWS
@IMPLEMENTED
@VIEWS
def test_no_valid_anchor(loss, implementation, views):
    """A batch of padding only: value 0.0 and every gradient 0, exactly."""
    embeddings = oracle.embeddings_like(2, seed=7)
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    result = compiled(loss, implementation, views)(embeddings, numbers, LABELS, np.zeros(6, bool))
    chex.assert_trees_all_equal(result, jax.tree.map(jnp.zeros_like, result))


@pytest.mark.parametrize(
    ("name", "implementation", "labels", "batch"),
    oracle.chosen(
        [
            *[("supcon", "dense", labels, 12) for labels in ("all_different", "one_class")],
            ("attract", "dense", "one_class", 1),
            *[("attract", "streaming", labels, 12) for labels in ("all_different", "one_class")],
            ("supcon", "streaming", "one_class", 1),
        ],
        ["supcon", "attract"],
        oracle.IMPLEMENTATIONS,
        ["all_different", "one_class"],
        [1, 12],
    ),
)
def test_one_view_without_positives(name, implementation, labels, batch):
    """All labels different, or a batch of one: 0.0 with gradient 0; one class: finite."""
    embeddings = oracle.embeddings_like(1, batch=batch, seed=8)
    numbers = {"temperature": np.float32(0.3)}
    classes, where = oracle.labels_like(labels, batch), np.ones(batch, bool)
    call = compiled(oracle.BY_NAME[name], implementation, "all")
    value, gradients = call(embeddings, numbers, classes, where)
    chex.assert_tree_all_finite((value, gradients))
    if labels == "all_different" or batch == 1:
        zeros = jax.tree.map(jnp.zeros_like, (value, gradients))
        chex.assert_trees_all_equal((value, gradients), zeros)
    else:
        expected = oracle.BY_NAME[name].expect(embeddings, classes, temperature=0.3)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
def test_small_temperature_is_finite(loss, implementation):
    """0.01 makes similarities of 100, exp of which would overflow."""
    embeddings = oracle.embeddings_like(2, seed=9)
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    numbers["temperature"] = np.float32(0.01)
    arguments = (embeddings, numbers, LABELS, WHERE)
    result = compiled(loss, implementation, "all")(*arguments)
    chex.assert_tree_all_finite(result)
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, (embeddings, numbers))
        _, expected = compiled(loss, implementation, "all")(*wide, LABELS, WHERE)
    # Similarities of 100 round at 1e-5, and a softmax multiplies by exp of that.
    assert_close_in_norm(result[1], jax.tree.map(np.asarray, expected), 2e-4)


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
def test_reduction_none_sums_to_the_mean(loss, implementation):
    """The per-anchor losses carry gradients too: a weighted sum of them is a loss."""
    embeddings = oracle.embeddings_like(2, seed=10)

    def total(z):
        values = loss.call(
            losses, z, LABELS, where=WHERE, reduction="none", implementation=implementation,
            temperature=0.3,
        )  # fmt: skip
        return jnp.sum(values) / jnp.float32(num_anchors)

    num_anchors = 2 * WHERE.sum()  # with two views every valid anchor has a positive
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    value, (gradient, _) = compiled(loss, implementation, "all")(embeddings, numbers, LABELS, WHERE)
    chex.assert_trees_all_close(
        jax.jit(jax.value_and_grad(total))(embeddings),
        (value, gradient),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("loss", [oracle.BY_NAME["spread"], oracle.BY_NAME["supcon"]], ids=repr)
@IMPLEMENTED
def test_nan_reaches_the_gradient(loss, implementation):
    embeddings = oracle.embeddings_like(2, seed=11)
    embeddings[1, 0, 0] = np.nan
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    value, (gradient, _) = compiled(loss, implementation, "all")(embeddings, numbers, LABELS, WHERE)
    assert np.isnan(value)
    assert np.any(np.isnan(gradient))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("loss", "implementation"),
    # Between them these hold every term; the others are sums of the same terms.
    oracle.chosen(
        [(oracle.BY_NAME[k], i) for k in ("spread", "joint_attract") for i in oracle.SECOND_ORDER],
        oracle.LOSSES,
        oracle.SECOND_ORDER,
    ),
    ids=str,
)
def test_higher_orders(loss, implementation):
    """Forward and reverse mode, two deep, for embeddings, temperature and weight together."""
    embeddings = oracle.embeddings_like(2, seed=12, dtype=np.float64)

    def value(z, numbers):
        return loss.call(losses, z, LABELS, where=WHERE, implementation=implementation, **numbers)

    value = jax.jit(value)
    with jax.enable_x64(True):
        numbers = {name: jnp.asarray(x) for name, x in scalars(loss).items()}
        check_grads(value, (jnp.asarray(embeddings), numbers), order=2, modes=("fwd", "rev"))


@pytest.mark.parametrize("implementation", oracle.SECOND_ORDER)
@pytest.mark.parametrize("name", ["spread", "attract"])
def test_forward_mode_with_zero_vectors_and_padding(implementation, name):
    """Finite along any direction, as in reverse mode; and both modes agree."""
    loss = oracle.BY_NAME[name]
    embeddings = oracle.embeddings_like(2, seed=13)
    direction = oracle.embeddings_like(2, seed=14)
    embeddings[0, 0] = 0
    embeddings[4] = np.nan
    direction[4] = 0

    def value(z):
        return loss.call(losses, z, LABELS, where=WHERE, implementation=implementation)

    _, forward = jax.jit(lambda z: jax.jvp(value, (z,), (direction,)))(embeddings)
    reverse = np.vdot(jax.jit(jax.grad(value))(embeddings), direction)
    chex.assert_tree_all_finite(forward)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-5)
