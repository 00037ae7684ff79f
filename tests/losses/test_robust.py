"""Losses against rare groups and wrong labels, held to float64 NumPy written from the papers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from robust_oracle import (
    ADJUSTMENT,
    BATCH,
    CLASSES,
    FEATURES,
    GROUPS,
    KEEP_RATE,
    SIZES,
    STEP_SIZE,
    expect_means,
    expect_regularization,
    expect_selection,
    expect_targets,
    expect_weighted_mean,
    expect_weights,
    softmax,
)

from thanos_jax.losses import robust

NEEDS_EIGHT = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")


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
