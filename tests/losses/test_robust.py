"""Losses against rare groups and wrong labels, held to float64 NumPy written from the papers."""

import functools
import inspect
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from thanos_jax import losses
from thanos_jax.losses import robust

BATCH, FEATURES, CLASSES, GROUPS = 16, 3, 4, 5
STEP_SIZE, ADJUSTMENT, SIZES, KEEP_RATE = 0.5, 2.0, (50, 10, 400, 3, 7), 0.4
NEEDS_EIGHT = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")


# The oracle: loops and float64, each function from the formula of its paper.


def expect_means(values, groups, num_groups, where):
    means, counts = np.zeros(num_groups), np.zeros(num_groups, int)
    for group in range(num_groups):
        members = [
            float(v) for v, g, w in zip(values, groups, where, strict=True) if w and g == group
        ]
        counts[group] = len(members)
        means[group] = sum(members) / len(members) if members else 0.0
    return means, counts


def expect_weights(weights, group_losses, step_size, adjustment, sizes):
    factors = [
        np.exp(step_size * (float(loss) + adjustment / np.sqrt(size)))
        for loss, size in zip(group_losses, sizes, strict=True)
    ]
    products = np.asarray(weights, np.float64) * factors
    return products / products.sum()


def expect_weighted_mean(values, weights, where):
    rows = np.flatnonzero(where)
    return sum(float(weights[i]) * float(values[i]) for i in rows) / max(len(rows), 1)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def expect_regularization(logits, targets, where):
    rows = [
        np.log(1 - softmax(logits[i].astype(np.float64)) @ targets[i].astype(np.float64))
        for i in np.flatnonzero(where)
    ]
    return np.mean(rows) if rows else 0.0


def expect_targets(targets, logits, momentum):
    clamped = np.clip(softmax(logits.astype(np.float64)), 1e-4, 1 - 1e-4)
    return momentum * targets + (1 - momentum) * clamped / clamped.sum(axis=1, keepdims=True)


def expect_selection(values, kept, where):
    chosen = np.zeros(len(values), bool)
    real = sorted(np.flatnonzero(where), key=lambda i: (float(values[i]), i))
    chosen[real[:kept]] = True
    return chosen


# One batch of a linear model through everything, on one device or many.


def batch(groups=None, where=None, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.normal(size=(BATCH, FEATURES)).astype(np.float32),
        "groups": np.array(rng.integers(0, GROUPS, BATCH) if groups is None else groups, np.int32),
        "sample_weights": rng.exponential(size=BATCH).astype(np.float32),
        "targets": (0.9 * softmax(rng.normal(size=(BATCH, CLASSES)))).astype(np.float32),
        "offset": np.zeros((BATCH, 1), np.float32),
        "where": np.ones(BATCH, bool) if where is None else np.array(where, bool),
    }


PARAMS = np.random.default_rng(9).normal(size=(FEATURES, CLASSES)).astype(np.float32)
WEIGHTS = np.array([0.1, 0.3, 0.2, 0.15, 0.25], np.float32)


def outputs(params, weights, arrays, axis_name):
    """What is the same on every device as one vector, and what is not as rows."""
    logits = arrays["images"] @ params
    values = jnp.sum(logits**2 + arrays["offset"], axis=1)
    logits = logits + arrays["offset"]
    shared = {"where": arrays["where"], "axis_name": axis_name}
    means, counts = robust.group_means(values, arrays["groups"], GROUPS, **shared)
    dro, new_weights = robust.group_dro(
        values, arrays["groups"], weights,
        step_size=STEP_SIZE, adjustment=ADJUSTMENT, group_sizes=SIZES, **shared,
    )  # fmt: skip
    weighted = robust.weighted_mean(values, arrays["sample_weights"], **shared)
    kept = robust.early_learning_regularization(logits, arrays["targets"], **shared)
    chosen = robust.small_loss_selection(values, KEEP_RATE, **shared)
    vector = jnp.concatenate([means, jnp.stack([dro, weighted, kept])])
    return vector, (counts, new_weights, chosen)


def with_gradients(params, weights, arrays, axis_name):
    """The vector, its Jacobian by the recipe of the other losses, and the rest."""
    function = functools.partial(outputs, weights=weights, arrays=arrays, axis_name=axis_name)
    vector, (counts, new_weights, chosen) = function(params)
    jacobian, _ = jax.jacrev(function, has_aux=True)(params)
    if axis_name is not None:
        jacobian = lax.pmean(jacobian, axis_name)
    return {
        "vector": vector, "jacobian": jacobian, "counts": counts, "weights": new_weights,
        "chosen": chosen,
    }  # fmt: skip


@functools.cache
def one_device():
    return jax.jit(functools.partial(with_gradients, axis_name=None))


@functools.cache
def many_devices(way):
    """Under pmap and vmap, the results of all devices stacked: [8, ...]."""
    if way in ("pmap", "vmap"):
        local = functools.partial(with_gradients, axis_name="data")
        keywords = {"axis_name": "data", "in_axes": (None, None, 0)}
        mapped = (
            jax.pmap(local, **keywords) if way == "pmap" else jax.jit(jax.vmap(local, **keywords))
        )

        def split(params, weights, arrays):
            return mapped(
                params, weights, {k: v.reshape(8, -1, *v.shape[1:]) for k, v in arrays.items()}
            )

        return split
    axes = ("replica", "data") if way == "two axes" else "data"
    shape, names = ((2, 4), axes) if way == "two axes" else ((8,), ("data",))
    everywhere, rows = PartitionSpec(), PartitionSpec(axes)
    return jax.jit(
        jax.shard_map(
            functools.partial(with_gradients, axis_name=axes),
            mesh=jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names)),
            in_specs=(everywhere, everywhere, rows),
            out_specs=dict.fromkeys(("vector", "jacobian", "counts", "weights"), everywhere)
            | {"chosen": rows},
            check_vma=way != "shard_map_unchecked",
        )
    )


CASES = {
    "all groups": (None, None),
    "a group on one device": ((3, 3, 0, 1, 0, 1, 2, 4, 0, 1, 2, 4, 0, 1, 2, 4), None),
    "a group nowhere": ((0, 1, 0, 1, 0, 1, 2, 4, 0, 1, 2, 4, 0, 1, 2, 4), None),
    "a group in padding only": (
        (3, 3, 0, 1, 0, 1, 2, 4, 0, 1, 2, 4, 0, 1, 2, 4),
        (0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1),
    ),
    "one group": ((2,) * 16, None),
    "padding everywhere": (None, (0,) * 16),
}


@pytest.mark.parametrize("case", CASES)
def test_values(case):
    arrays = batch(*CASES[case])
    computed = one_device()(PARAMS, WEIGHTS, arrays)
    logits = arrays["images"].astype(np.float64) @ PARAMS.astype(np.float64)
    values, where = np.sum(logits**2, axis=1), arrays["where"]
    means, counts = expect_means(values, arrays["groups"], GROUPS, where)
    weights = expect_weights(WEIGHTS, means, STEP_SIZE, ADJUSTMENT, SIZES)
    expected = [
        *means, weights @ means, expect_weighted_mean(values, arrays["sample_weights"], where),
        expect_regularization(logits, arrays["targets"], where),
    ]  # fmt: skip
    np.testing.assert_allclose(computed["vector"], expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(computed["weights"], weights, rtol=1e-5)
    np.testing.assert_array_equal(computed["counts"], counts)
    kept = -(-int(where.sum()) * 4 // 10)  # two fifths, rounded up
    np.testing.assert_array_equal(computed["chosen"], expect_selection(values, kept, where))
    assert {k: v.dtype.name for k, v in computed.items()} == {
        "vector": "float32", "jacobian": "float32", "counts": "int32", "weights": "float32",
        "chosen": "bool",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    """Central differences of the oracle in float64, with the weights of groups held constant."""
    arrays = batch(*CASES[case])
    computed = one_device()(PARAMS, WEIGHTS, arrays)["jacobian"]
    where, weights = arrays["where"], None

    def vector(params):
        nonlocal weights
        logits = arrays["images"].astype(np.float64) @ params
        values = np.sum(logits**2, axis=1)
        means, _ = expect_means(values, arrays["groups"], GROUPS, where)
        if weights is None:
            weights = expect_weights(WEIGHTS, means, STEP_SIZE, ADJUSTMENT, SIZES)
        return np.array([
            *means, weights @ means, expect_weighted_mean(values, arrays["sample_weights"], where),
            expect_regularization(logits, arrays["targets"], where),
        ])  # fmt: skip

    params, step = PARAMS.astype(np.float64), 1e-5
    vector(params)
    expected = np.zeros(computed.shape)
    for place in np.ndindex(params.shape):
        change = np.zeros(params.shape)
        change[place] = step
        expected[:, *place] = (vector(params + change) - vector(params - change)) / (2 * step)
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5)
    absent = [g for g in range(GROUPS) if not np.any(where & (arrays["groups"] == g))]
    assert np.all(computed[np.array(absent, int)] == 0)


@pytest.mark.sampled(6)
@NEEDS_EIGHT
@pytest.mark.parametrize("way", ["pmap", "vmap", "shard_map", "shard_map_unchecked", "two axes"])
@pytest.mark.parametrize("case", CASES)
def test_eight_devices(way, case):
    """Two rows a device, so most groups are absent from most devices."""
    arrays = batch(*CASES[case])
    expected = jax.tree.map(np.asarray, one_device()(PARAMS, WEIGHTS, arrays))
    computed = jax.tree.map(np.asarray, many_devices(way)(PARAMS, WEIGHTS, arrays))
    np.testing.assert_array_equal(computed.pop("chosen").reshape(-1), expected.pop("chosen"))
    if way in ("pmap", "vmap"):
        for name in ("vector", "counts", "weights"):
            assert np.all(computed[name] == computed[name][:1])
        expected = {name: np.broadcast_to(x, (8, *x.shape)) for name, x in expected.items()}
    chex.assert_trees_all_close(computed, expected, rtol=1e-5, atol=1e-6)


@NEEDS_EIGHT
@pytest.mark.parametrize("way", ["pmap", "shard_map"])
def test_nan(way):
    """One in padding reaches nothing; one in a row reaches its group, and the losses everywhere."""
    arrays = batch((0, 1) * 8, (0,) + (1,) * 15)
    clean = many_devices(way)(PARAMS, WEIGHTS, arrays)
    arrays["offset"][0] = arrays["targets"][0] = arrays["sample_weights"][0] = np.nan
    computed = many_devices(way)(PARAMS, WEIGHTS, arrays)
    chex.assert_trees_all_equal(computed, clean)
    arrays["offset"][5] = np.nan
    computed = many_devices(way)(PARAMS, WEIGHTS, arrays)
    vector = np.reshape(computed["vector"], (-1, GROUPS + 3))
    assert np.all(np.isnan(vector) == [False, True, False, False, False, True, True, True])
    assert np.all(np.isnan(computed["weights"]))
    assert not np.ravel(computed["chosen"])[5]


@NEEDS_EIGHT
@pytest.mark.parametrize("check_vma", [True, False])
def test_without_where(check_vma):
    """None for padding is the same on all devices, which shard_map knows."""
    arrays = batch()
    values = arrays["images"][:, 0]

    def local(values, groups, logits, targets):
        return (
            robust.group_means(values, groups, GROUPS, axis_name="data")[1],
            robust.weighted_mean(values, jnp.ones_like(values), axis_name="data"),
            robust.early_learning_regularization(logits, targets, axis_name="data"),
            robust.small_loss_selection(values, 0.5, axis_name="data"),
        )

    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    computed = jax.jit(
        jax.shard_map(
            local, mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=rows, out_specs=(everywhere, everywhere, everywhere, rows),
            check_vma=check_vma,
        )
    )(values, arrays["groups"], arrays["targets"], arrays["targets"])  # fmt: skip
    np.testing.assert_array_equal(computed[0], np.bincount(arrays["groups"], minlength=GROUPS))
    np.testing.assert_allclose(computed[1], values.astype(np.float64).mean(), rtol=1e-5)
    expected = expect_regularization(arrays["targets"], arrays["targets"], arrays["where"])
    np.testing.assert_allclose(computed[2], expected, rtol=1e-5)
    np.testing.assert_array_equal(computed[3], expect_selection(values, 8, arrays["where"]))


def test_vmap():
    """Over batches, and over a hyper-parameter."""
    several = [batch(seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *several)
    computed = jax.jit(jax.vmap(functools.partial(outputs, axis_name=None), (None, None, 0)))(
        PARAMS, WEIGHTS, stacked
    )[0]
    expected = [one_device()(PARAMS, WEIGHTS, arrays)["vector"] for arrays in several]
    np.testing.assert_allclose(computed, expected, rtol=1e-5)
    rates = jnp.array([0.0, 0.5, 1.0])
    chosen = jax.vmap(lambda rate: robust.small_loss_selection(jnp.arange(4.0), rate))(rates)
    assert np.sum(chosen, axis=1).tolist() == [0, 2, 4]


def every_output(values, groups, weights, sample_weights, logits, targets):
    loss, updated = robust.group_dro(values, groups, weights)
    return [
        robust.group_means(values, groups, GROUPS)[0], loss, updated,
        robust.weighted_mean(values, sample_weights),
        robust.early_learning_regularization(logits, targets),
        robust.update_targets(targets, logits),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes(dtype):
    """What comes in narrow is summed and returned in float32; float64 stays with x64 on."""
    with jax.enable_x64(dtype == "float64"):
        arrays = batch()
        wide = jnp.float64 if dtype == "float64" else jnp.float32
        values = jnp.asarray(arrays["images"][:, 0] ** 2, dtype)
        weights, sample_weights = (
            jnp.asarray(WEIGHTS, dtype),
            jnp.asarray(arrays["sample_weights"], dtype),
        )
        logits, targets = (
            jnp.asarray(arrays["images"] @ PARAMS, dtype),
            jnp.asarray(arrays["targets"], dtype),
        )
        groups = arrays["groups"].astype(np.int64)
        computed = jax.jit(every_output)(values, groups, weights, sample_weights, logits, targets)
        assert [x.dtype for x in computed] == [wide] * 6
        values, weights, sample_weights, logits, targets = (
            np.asarray(x, np.float64) for x in (values, weights, sample_weights, logits, targets)
        )
        real = [True] * BATCH
        means, _ = expect_means(values, groups, GROUPS, real)
        updated = expect_weights(weights, means, 0.01, 0, SIZES)
        expected = [
            means, updated @ means, updated,
            expect_weighted_mean(values, sample_weights, real),
            expect_regularization(logits, targets, real),
            expect_targets(targets, logits, 0.7),
        ]  # fmt: skip
        rtol = 1e-12 if dtype == "float64" else 1e-5
        for mine, theirs in zip(computed, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=rtol)


# Groups.


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


# Weights of images.


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


# Early learning.


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


# Small losses.


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


# What is refused.

VALUES, ROWS = np.ones(4, np.float32), np.full((4, 3), 0.3, np.float32)
GOOD = {
    "group_means": {"values": VALUES, "groups": np.zeros(4, np.int32), "num_groups": 2},
    "group_dro_weights": {
        "weights": np.ones(2, np.float32), "group_losses": np.ones(2, np.float32),
        "counts": np.ones(2, np.int32),
    },
    "group_dro": {
        "values": VALUES, "groups": np.zeros(4, np.int32), "weights": np.ones(2, np.float32)
    },
    "weighted_mean": {"values": VALUES, "sample_weights": VALUES},
    "early_learning_regularization": {"logits": ROWS, "targets": ROWS},
    "update_targets": {"targets": ROWS, "logits": ROWS},
    "small_loss_selection": {"values": VALUES, "keep_rate": 0.5},
}  # fmt: skip
TAKES_VALUES = ("group_means", "group_dro", "weighted_mean", "small_loss_selection")
TAKES_LOGITS = ("early_learning_regularization", "update_targets")


def refusals():
    for name in TAKES_VALUES:
        yield name, {"values": np.ones(4, np.int32)}, TypeError, r"^values.*float.*int32\[4\]"
        yield name, {"values": [1.0, 2.0]}, TypeError, r"^values.*float.*list \[1.0"
        yield name, {"values": ROWS}, ValueError, r"^values.*\[batch\].*float32\[4, 3\]"
        yield name, {"values": VALUES[:0]}, ValueError, r"^values.*non-empty.*float32\[0\]"
    for name in (*TAKES_VALUES, "early_learning_regularization"):
        yield name, {"where": np.ones(3, bool)}, ValueError, r"^where.*\[4\].*bool\[3\]"
        yield name, {"where": np.ones(4, np.int32)}, TypeError, r"^where.*bool.*int32\[4\]"
    for name in ("group_means", "group_dro"):
        yield name, {"groups": VALUES}, TypeError, r"^groups.*integer.*batch=4.*float32\[4\]"
        yield name, {"groups": [0, 1, 0]}, ValueError, r"^groups.*batch=4.*int64\[3\]"
        yield name, {"groups": np.array([0, 1, 2, 0])}, ValueError, "^groups.*0 to 1.*from 0 to 2"
        yield (
            name,
            {"groups": jnp.array([0, 1, 0, -3])},
            ValueError,
            "^groups.*0 to 1.*from -3 to 1",
        )
        yield name, {"groups": np.array([0, 1, 0, 2**32])}, ValueError, "^groups.*to 4294967296"
    yield "group_means", {"num_groups": 0}, ValueError, "^num_groups.*positive.*0"
    yield "group_means", {"num_groups": 2.0}, TypeError, "^num_groups.*integer.*2.0"
    yield "group_means", {"num_groups": True}, TypeError, "^num_groups.*integer.*True"
    for name in ("group_dro_weights", "group_dro"):
        two = np.ones(2, np.float32)
        yield name, {"weights": two.astype(int)}, TypeError, r"^weights.*float.*int64\[2\]"
        yield name, {"weights": two[None]}, ValueError, r"^weights.*\[num_groups\].*float32\[1, 2\]"
        yield name, {"weights": two[:0]}, ValueError, r"^weights.*float32\[0\]"
        yield name, {"weights": two * [1, -0.5]}, ValueError, r"^weights.*negative.*\[2\].*-0.5"
        yield name, {"weights": two * np.nan}, ValueError, "^weights.*finite.*nan"
        yield name, {"weights": two * 0}, ValueError, r"^weights.*positive.*float32\[2\]"
        for scalar in ("step_size", "adjustment"):
            yield name, {scalar: -0.1}, ValueError, f"^{scalar}.*negative.*-0.1"
            yield name, {scalar: np.inf}, ValueError, f"^{scalar}.*finite.*inf"
            yield name, {scalar: two}, ValueError, rf"^{scalar}.*scalar.*float32\[2\]"
            yield name, {scalar: "large"}, TypeError, f"^{scalar}.*number.*large"
        yield name, {"adjustment": 2.0}, ValueError, r"^group_sizes.*training.*num_groups=2.*None"
        yield name, {"group_sizes": [1, 2, 3]}, ValueError, r"^group_sizes.*=2\].*int64\[3\]"
        yield name, {"group_sizes": [1, -2]}, ValueError, r"^group_sizes.*negative.*\[ *1 -2\]"
        yield name, {"group_sizes": "many"}, TypeError, "^group_sizes.*integer"
    name = "group_dro_weights"
    yield name, {"group_losses": VALUES}, ValueError, r"^group_losses.*num_groups=2.*float32\[4\]"
    yield name, {"group_losses": np.ones(2, int)}, TypeError, r"^group_losses.*float.*int64\[2\]"
    yield name, {"counts": np.ones(4, int)}, ValueError, r"^counts.*num_groups=2.*int64\[4\]"
    yield name, {"counts": np.ones(2, bool)}, TypeError, r"^counts.*integer.*bool\[2\]"
    name = "weighted_mean"
    yield (
        name,
        {"sample_weights": VALUES[:3]},
        ValueError,
        r"^sample_weights.*batch=4.*float32\[3\]",
    )
    yield name, {"sample_weights": VALUES > 0}, TypeError, r"^sample_weights.*integer.*bool\[4\]"
    yield name, {"sample_weights": -VALUES}, ValueError, "^sample_weights.*negative.*-1"
    for name in TAKES_LOGITS:
        yield name, {"logits": ROWS.astype(int)}, TypeError, r"^logits.*float.*int64\[4, 3\]"
        yield name, {"targets": np.zeros(4, int)}, TypeError, r"^targets.*float.*int64\[4\]"
        yield name, {"targets": ROWS[:, :2]}, ValueError, r"^targets.*\[4, 3\].*float32\[4, 2\]"
        yield name, {"logits": VALUES}, ValueError, r"^logits.*\[batch, classes\].*float32\[4\]"
        yield name, {"logits": ROWS[:, :1]}, ValueError, r"^logits.*two classes.*float32\[4, 1\]"
        yield name, {"logits": ROWS[:0]}, ValueError, r"^logits.*non-empty.*float32\[0, 3\]"
    yield "update_targets", {"momentum": 1.5}, ValueError, r"^momentum.*\[0, 1\].*1.5"
    yield "small_loss_selection", {"keep_rate": -0.5}, ValueError, r"^keep_rate.*\[0, 1\].*-0.5"
    yield "small_loss_selection", {"keep_rate": None}, TypeError, "^keep_rate.*None"


@pytest.mark.parametrize(("name", "change", "error", "words"), list(refusals()))
def test_refused(name, change, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        getattr(robust, name)(**GOOD[name] | change)


def test_traced_adjustment_needs_sizes():
    def call(adjustment):
        return robust.group_dro_weights(**GOOD["group_dro_weights"], adjustment=adjustment)

    with pytest.raises(ValueError, match=r"^group_sizes.*None"):
        jax.jit(call)(0.0)


@pytest.mark.parametrize("name", GOOD)
def test_what_is_not_refused(name):
    """The arguments that refusals change one at a time are fine themselves."""
    chex.assert_tree_all_finite(getattr(robust, name)(**GOOD[name]))


def test_signatures():
    """Names, order and defaults that callers rely on."""
    shared = {"where": None, "axis_name": None}
    step = {"step_size": 0.01, "adjustment": 0.0, "group_sizes": None}
    expected = {
        "group_means": (["values", "groups", "num_groups"], shared),
        "group_dro_weights": (["weights", "group_losses", "counts"], step),
        "group_dro": (["values", "groups", "weights"], step | shared),
        "weighted_mean": (["values", "sample_weights"], shared),
        "early_learning_regularization": (["logits", "targets"], shared),
        "update_targets": (["targets", "logits", "momentum"], {}),
        "small_loss_selection": (["values", "keep_rate"], shared),
    }
    assert sorted(expected) == sorted(robust.__all__)
    assert losses.robust is robust
    for name, (positional, keywords) in expected.items():
        parameters = inspect.signature(getattr(robust, name)).parameters.values()
        assert [p.name for p in parameters if p.kind != p.KEYWORD_ONLY] == positional
        assert {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY} == keywords
    assert inspect.signature(robust.update_targets).parameters["momentum"].default == 0.7
