"""One table of everything that can be combined; each row is held to the float64 oracle.

A few dozen rows in which every two options meet are run by default, all of them by
`pytest tests/losses/test_table.py --everything`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from thanos_jax import losses

DEVICES = 4
COLUMNS = {
    "loss": tuple(oracle.BY_NAME),
    "implementation": oracle.SHARDED,
    "views": ("all", "cross"),
    "where": ("everything", "padded"),
    "dtype": ("float32", "bfloat16", "float64"),
    "way": ("jit", "vmap", "pmap", "shard_map", "shard_map_unchecked"),
}
TABLE = tuple(itertools.product(*COLUMNS.values()))
# The loss is 1e-5 exact; a bfloat16 gradient is rounded to 8 bits.
TOLERANCE = {
    "float32": (1e-5, 1e-5),
    "bfloat16": (1e-5, float(jnp.finfo("bfloat16").eps)),
    "float64": (1e-10, 1e-7),
}


def pairs_of(row):
    return set(itertools.combinations(enumerate(row), 2))


@functools.cache
def covering():
    """Rows, chosen greedily, among which every two options of different columns meet."""
    left, chosen = set().union(*map(pairs_of, TABLE)), []
    while left:
        best = max(TABLE, key=lambda row: len(pairs_of(row) & left))
        chosen.append(best)
        left -= pairs_of(best)
    return tuple(chosen)


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--everything")
        metafunc.parametrize("row", TABLE if whole else covering(), ids="-".join)


@pytest.mark.sampled(5)
def test_row(row):
    case = dict(zip(COLUMNS, row, strict=True))
    loss = oracle.BY_NAME[case["loss"]]
    batch = 2 * DEVICES
    with jax.enable_x64(case["dtype"] == "float64"):
        embeddings = jnp.asarray(
            oracle.embeddings_like(2, batch=batch, dim=3, seed=30, dtype=np.float64), case["dtype"]
        )
        labels = oracle.labels_like("random", batch)
        where = oracle.where_like(case["where"], batch)
        computed = compute(case, loss, embeddings, labels, where)
    keywords = {"where": where, "views": case["views"], "temperature": 0.3}
    exact = np.asarray(embeddings, np.float64)
    expected = loss.expect(exact, labels, **keywords)
    slope = oracle.differentiate(lambda z: loss.expect(z, labels, **keywords), exact)
    rtol, relative = TOLERANCE[case["dtype"]]
    np.testing.assert_allclose(computed[0], expected, rtol=rtol)
    have = np.asarray(computed[1], np.float64).reshape(slope.shape)
    np.testing.assert_allclose(have, slope, rtol=0, atol=relative * np.linalg.norm(slope))
    assert not np.any(have[~where])


def compute(case, loss, embeddings, labels, where):
    """Value, and gradient for the global batch, as a caller in each way would take them."""
    alone = case["way"] in ("jit", "vmap")

    def value(embeddings, labels, where):
        return loss.call(
            losses, embeddings, labels, where=where, views=case["views"], temperature=0.3,
            implementation=case["implementation"], axis_name=None if alone else "data",
        )  # fmt: skip

    both = jax.value_and_grad(value)
    arrays = (embeddings, labels, where)
    if case["way"] == "jit":
        return jax.jit(both)(*arrays)
    if case["way"] == "vmap":
        stacked = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), arrays)
        return jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(both))(*stacked))
    devices = jax.devices()[:DEVICES]
    if case["way"] == "pmap":
        shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), arrays)
        result, gradient = jax.pmap(both, axis_name="data", devices=devices)(*shards)
        return result[0], gradient / DEVICES
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    checked = case["way"] == "shard_map"

    def local(*shard):
        result, gradient = both(*shard)
        # The gradient for what every device has of its own: pmean's share, without its mean.
        return result, gradient if checked else gradient / lax.axis_size("data")

    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(spec,) * 3, out_specs=(PartitionSpec(), spec), check_vma=checked
    )
    return jax.jit(mapped)(*arrays)
