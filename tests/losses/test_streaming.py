"""What the streaming engine promises beyond the values: memory, products, limits, choices."""

import functools
import pathlib
import sys

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from thanos_jax import losses
from thanos_jax.losses import pairs
from thanos_jax.losses.pairs import streaming, tiles

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import hlo

# The others are sums of the terms of these.
ROWS = pytest.mark.parametrize(
    "loss", [oracle.BY_NAME[k] for k in ("spread", "joint_attract")], ids=repr
)
VIEWS = pytest.mark.parametrize("views", ["all", "cross"])


@st.composite
def batches(draw):
    """Embeddings of any size with duplicates, antipodes and zeros in them, labels and where."""
    num_views = draw(st.integers(2, 3))
    batch, dim = draw(st.integers(1, 30)), draw(st.integers(1, 20))
    embeddings = oracle.embeddings_like(num_views, batch=batch, dim=dim, seed=draw(st.integers(0)))
    for change in draw(st.lists(st.sampled_from(["copy", "antipode", "zero"]), max_size=4)):
        first, second = draw(st.integers(0, batch - 1)), draw(st.integers(0, batch - 1))
        factor = {"copy": 1, "antipode": -1, "zero": 0}[change]
        embeddings[first, 0] = factor * embeddings[second, -1]
    rng = np.random.default_rng(draw(st.integers(0)))
    labels = rng.integers(0, draw(st.integers(1, 9)), size=batch).astype(np.int32)
    return embeddings, labels, rng.random(batch) < draw(st.sampled_from([0.5, 1.0]))


@pytest.mark.slow
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    loss=st.sampled_from(oracle.LOSSES),
    views=st.sampled_from(["all", "cross"]),
    batch=batches(),
    log_temperature=st.floats(np.log(0.005), np.log(10)),
    known=st.booleans(),
)
def test_equals_dense(loss, views, batch, log_temperature, known):
    """Value and gradients, at temperatures known to the compiler or not, from 0.005 to 10."""
    embeddings, labels, where = batch
    temperature = float(np.exp(log_temperature))

    def both(implementation):
        def value(embeddings, temperature):
            return loss.call(
                losses, embeddings, labels, where=where, temperature=temperature, views=views,
                implementation=implementation,
            )  # fmt: skip

        if known:
            call = jax.value_and_grad(functools.partial(value, temperature=temperature))
            return jax.jit(call)(embeddings)
        call = jax.value_and_grad(value, argnums=(0, 1))
        return jax.jit(call)(embeddings, np.float32(temperature))

    (value, gradient), (expected, expected_gradient) = both("streaming"), both("dense")
    # 1e-5, and the rounding of similarities as large as 1 / temperature, which both have.
    rounding = 2e-7 / temperature
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=rounding)
    for have, want in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        length = np.linalg.norm(want)
        atol = (1e-5 + 5 * rounding) * length + 1e-6 * (1 + 1 / temperature**2)
        np.testing.assert_allclose(have, want, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shift(dtype):
    """A fixed shift is taken just where it loses nothing, and agrees there with running maxima."""
    with jax.enable_x64(dtype == "float64"):
        kind = jnp.dtype(dtype)
        assert streaming._shift(0.5, kind) == 0.0
        lowest = next(t for t in 1 / np.arange(1e3, 1, -1) if streaming._shift(t, kind) is not None)
        assert (1 / 80 < lowest < 1 / 65) if dtype == "float32" else (1 / 750 < lowest < 1 / 650)
        assert streaming._shift(float(lowest) * 0.98, kind) is None
        # All similarities at one end of the range, the worst case of a fixed shift.
        antipodes = np.ones((6, 2, 3), dtype)
        antipodes[:, 1] *= -1
        labels = oracle.labels_like("random")
        loss = oracle.BY_NAME["spread"]
        for views in ("all", "cross"):
            call = functools.partial(
                loss.call, losses, labels=labels, temperature=float(lowest), views=views,
                implementation="streaming",
            )  # fmt: skip
            call = jax.jit(call)
            gaussian = oracle.embeddings_like(2, dim=3, dtype=dtype)
            for z in (antipodes, np.ones((6, 2, 3), dtype), gaussian):
                value = call(z)
                expected = loss.expect(z, labels, temperature=float(lowest), views=views)
                np.testing.assert_allclose(
                    value, expected, rtol=1e-5 if dtype == "float32" else 1e-12
                )
    assert streaming._shift(jnp.float32(0.5), jnp.dtype("float32")) is None


def lowered(loss, entries, dim, *, views="all", implementation="streaming", temperature=0.1):
    """Compiled value and gradient of random-shaped inputs; nothing is run."""

    def value(embeddings, labels):
        return loss.call(
            losses, embeddings, labels, views=views, temperature=temperature,
            implementation=implementation,
        )  # fmt: skip

    return (
        jax.jit(jax.value_and_grad(value))
        .lower(
            jax.ShapeDtypeStruct((entries // 2, 2, dim), jnp.float32),
            jax.ShapeDtypeStruct((entries // 2,), jnp.int32),
        )
        .compile()
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "views", "temperature"),
    oracle.chosen(
        [("supcon", "all", 0.1), ("supcon", "cross", 0.005), ("spread_attract", "cross", 0.1),
         ("spread_attract", "all", 0.005)],
        ["supcon", "spread_attract"],
        ["all", "cross"],
        [0.1, 0.005],
    ),
)  # fmt: skip
def test_memory(name, views, temperature, monkeypatch):
    """No array of the compiled program is quadratic in the batch, forwards or backwards."""
    loss = oracle.BY_NAME[name]
    monkeypatch.setitem(streaming.TILE, "cpu", 64)
    dim, temporary = 8, []
    for entries in (2048, 4096):
        compiled = lowered(loss, entries, dim, views=views, temperature=temperature)
        largest = hlo.summarize(compiled.as_text()).largest_buffer
        assert largest.bytes <= 4 * max(2 * entries * dim, 64 * 64), largest
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    # Linear, but for the list of pairs of tiles: 8 bytes for 64 x 64 pairs of entries.
    assert temporary[1] < 2.2 * temporary[0]
    matrix = lowered(loss, 2048, dim, views=views, implementation="dense")
    assert hlo.summarize(matrix.as_text()).largest_buffer.bytes >= 2048 * 2048
    assert matrix.memory_analysis().temp_size_in_bytes > 10 * temporary[0]


def test_products(monkeypatch):
    """4 N^2 d operations and N^2 exponentials for value and gradient, and the tiles' diagonal."""
    monkeypatch.setitem(streaming.TILE, "cpu", 64)
    entries, dim = 4096, 16
    work = hlo.summarize(lowered(oracle.BY_NAME["supcon"], entries, dim).as_text())
    assert work.exact
    assert 1.0 <= work.flops / (4 * entries**2 * dim) < 1.03
    assert 1.0 <= work.exponentials / entries**2 < 1.03


@pytest.mark.sampled(4)
@pytest.mark.parametrize("devices", [2, 5, 8])
def test_products_of_the_ring(devices, monkeypatch):
    """Each device has its share of 4 N^2 d, and holds nothing quadratic."""
    monkeypatch.setitem(streaming.TILE, "cpu", 64)
    entries, dim = 512 * devices, 16
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    spec = PartitionSpec("data")

    def value(embeddings, labels):
        return losses.supcon(
            embeddings, labels, temperature=0.1, axis_name="data", implementation="streaming_ring"
        )

    step = jax.shard_map(
        jax.value_and_grad(value), mesh=mesh, in_specs=(spec, spec),
        out_specs=(PartitionSpec(), spec),
    )  # fmt: skip
    shapes = (
        jax.ShapeDtypeStruct((entries // 2, 2, dim), jnp.float32),
        jax.ShapeDtypeStruct((entries // 2,), jnp.int32),
    )
    work = hlo.summarize(jax.jit(step).lower(*shapes).compile().as_text())
    assert work.exact
    assert 1.0 <= work.flops / (4 * entries**2 * dim / devices) < 1.15
    assert work.largest_buffer.bytes <= 4 * max(2 * entries * dim, 64 * 64), work.largest_buffer
    # Forwards the embeddings travel, backwards they and their gradients, half way around; with
    # each go a few numbers an entry.
    sent = work.collectives["collective-permute"].bytes_sent
    assert sent < 1.15 * 4 * (entries / devices) * (devices // 2 + 1) * (3 * dim + 10)
    assert "all-to-all" not in work.collectives
    assert "reduce-scatter" not in work.collectives


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")
@pytest.mark.parametrize(("schedule", "work"), [("ring", 1.0), ("gather", 1.5)])
def test_a_large_batch_on_eight_devices(schedule, work, monkeypatch):
    """N = 16,384: value and gradient of one device, 4 N^2 d / 8 operations, nothing quadratic."""
    monkeypatch.setitem(streaming.TILE, "cpu", 1024)
    entries, dim = 16384, 128
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(entries // 2, 2, dim)).astype(np.float32)
    labels = rng.integers(0, 10, entries // 2).astype(np.int32)

    def both(implementation, axis_name=None):
        loss = functools.partial(
            losses.spread, temperature=0.1, axis_name=axis_name, implementation=implementation
        )
        return jax.value_and_grad(lambda embeddings, labels: loss(embeddings, labels))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    step = jax.shard_map(
        both(f"streaming_{schedule}", "data"), mesh=mesh, in_specs=(spec, spec),
        out_specs=(PartitionSpec(), spec),
    )  # fmt: skip
    compiled = jax.jit(step).lower(embeddings, labels).compile()
    found = hlo.summarize(compiled.as_text())
    assert found.exact
    assert work <= found.flops / (4 * entries**2 * dim / 8) < 1.15 * work
    assert found.largest_buffer.bytes <= 4 * max(entries * dim, 1024 * 1024), found.largest_buffer
    value, gradient = jax.jit(step)(embeddings, labels)
    expected, slope = jax.jit(both("streaming"))(embeddings, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    gradient, slope = np.asarray(gradient), np.asarray(slope)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-5 * np.abs(slope).max())


@pytest.mark.sampled(4)
@ROWS
def test_derivatives(loss):
    """In float64 against differences: embeddings, temperature, alpha and beta."""
    embeddings = oracle.embeddings_like(2, seed=20, dtype=np.float64)
    labels = oracle.labels_like("random")

    @jax.jit
    def value(z, numbers):
        return loss.call(losses, z, labels, implementation="streaming", **numbers)

    numbers = {"temperature": 0.3} | {k: v for k, v in loss.options.items() if k != "denominator"}
    with jax.enable_x64(True):
        arguments = (jnp.asarray(embeddings), jax.tree.map(jnp.asarray, numbers))
        check_grads(value, arguments, order=1, modes=("rev",))


def test_auto(monkeypatch):
    """The matrix while it is small, tiles when it is not, counting all devices' entries."""
    chosen = []
    for name, compute in pairs.IMPLEMENTATIONS.items():

        def spy(*arguments, name=name, compute=compute, **keywords):
            chosen.append(name)
            return compute(*arguments, **keywords)

        monkeypatch.setitem(pairs.IMPLEMENTATIONS, name, spy)
    monkeypatch.setattr(pairs, "DENSE_UNTIL", 24 * 24)
    embeddings = oracle.embeddings_like(2, batch=12)
    labels = oracle.labels_like("one_class", 12)
    jax.eval_shape(losses.supcon, embeddings, labels)
    assert chosen.pop() == "dense"
    doubled = (np.concatenate([array, array]) for array in (embeddings, labels))
    jax.eval_shape(losses.supcon, *doubled)
    assert chosen.pop() == "streaming"
    call = jax.vmap(functools.partial(losses.supcon, axis_name="data"), axis_name="data")
    call = jax.jit(call)
    value = call(np.stack([embeddings, embeddings]), np.stack([labels, labels]))
    assert chosen.pop() == "streaming"
    chex.assert_trees_all_close(value[0], value[1])


@pytest.mark.sampled(6)
@pytest.mark.parametrize("entries", [1, 2, 7, 8, 9, 30, 64, 65])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("even", [True, False])
def test_tiles(entries, groups, even):
    """Splitting and joining keeps every entry; every admitted pair is met exactly once."""
    entries *= groups
    layout = tiles.layout(entries, groups=groups, largest=16, even=even)
    assert not even or layout.per_group % 2 == 0
    numbers = jnp.arange(entries)
    split = tiles.split(numbers, layout, -1)
    assert split.shape == (layout.total, layout.size)
    np.testing.assert_array_equal(tiles.join(split, layout), numbers)

    met = np.zeros((entries, entries), int)
    split = np.asarray(split)

    def meet(rows, columns):
        keep = np.ix_(rows >= 0, columns >= 0)
        inside = np.zeros((len(rows), len(columns)), int)
        inside[keep] = 1
        np.add.at(met, (rows[:, None] * (inside > 0), columns[None, :] * (inside > 0)), inside)

    for first, second in tiles.triangle(layout):
        meet(split[first], split[second])
        meet(split[second], split[first])
    for first, second in tiles.diagonal(layout):
        meet(split[first], split[second])
    view = np.arange(entries) % groups
    admitted = np.ones_like(met) if groups == 1 else view[:, None] != view[None, :]
    np.testing.assert_array_equal(met, admitted)

    met[:] = 0
    for first, second in tiles.rectangle(layout, layout):
        meet(split[first], split[second])
    np.testing.assert_array_equal(met, admitted)
    if even:
        met[:] = 0
        mine, theirs = tiles.halves(layout)
        assert len(mine) == len(theirs)
        for first, second in mine:
            meet(split[first], split[second])
        for first, second in theirs:
            meet(split[second], split[first])
        np.testing.assert_array_equal(met, admitted)
