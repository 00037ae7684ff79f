"""Losses on a mesh, as training loops call them: `jax.jit` over sharded arrays, or shard_map.

A table in which every two options meet is run by default for losses that between them have every
term, and for all of them by `pytest tests/losses/test_placement.py --everything`.
"""

import functools
import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from thanos_jax import losses
from thanos_jax.losses import placement
from thanos_jax.losses.pairs import streaming

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import hlo

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")

BATCH, DIM, TEMPERATURE = 8, 4, 0.3
# Shape of the mesh, axes of the batch, further axes.
MESHES = {
    "1": ((1,), ("data",), ()),
    "2": ((2,), ("data",), ()),
    "4": ((4,), ("data",), ()),
    "8": ((8,), ("data",), ()),
    "2x4": ((2, 4), ("replica", "data"), ()),
    "4 and model": ((4, 2), ("data",), ("model",)),
}
COLUMNS = {
    "loss": ("info_nce", "spread", "joint_attract"),
    "mesh": tuple(MESHES),
    "kind": ("Explicit", "Auto"),
    "way": ("jit", "shard_map", "shard_map_unchecked", "partial", "partial_unchecked"),
    "implementation": oracle.SHARDED,
    "views": ("all", "cross"),
    "where": ("everything", "padded"),
    "bank": ("no_bank", "bank"),
}
# A shard_map over the batch alone, beside an axis of each kind: rows with paths of their own.
BESIDE = {
    "Auto": (
        "spread", "4 and model", "Auto", "partial", "streaming_ring", "all", "padded", "bank",
    ),
    "Explicit, tiles that are skipped": (
        "joint_attract", "4 and model", "Explicit", "partial", "streaming_gather", "all", "padded",
        "bank",
    ),
    "Explicit": (
        "spread", "4 and model", "Explicit", "partial_unchecked", "dense", "cross", "everything",
        "no_bank",
    ),
}  # fmt: skip


def covering(columns):
    """Rows, drawn one by one, among which every two options of different columns meet."""
    table, chosen = list(itertools.product(*columns.values())), []

    def met(row):
        return set(itertools.combinations(enumerate(row), 2))

    left = set().union(*map(met, table))
    rng = np.random.default_rng(0)
    while left:
        some = [table[i] for i in rng.integers(0, len(table), 300)]
        chosen.append(max(some, key=lambda row: len(met(row) & left)))
        left -= met(chosen[-1])
    return chosen


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        columns = COLUMNS
        if metafunc.config.getoption("--everything"):
            columns = COLUMNS | {"loss": tuple(oracle.BY_NAME)}
        metafunc.parametrize("row", covering(columns), ids="-".join)


def mesh_of(name, kind):
    shape, batch_axes, others = MESHES[name]
    return jax.make_mesh(
        shape, batch_axes + others, axis_types=(getattr(AxisType, kind),) * len(shape),
        devices=jax.devices()[: int(np.prod(shape))],
    )  # fmt: skip


@functools.cache
def batch_of(where="everything", bank="no_bank"):
    rng = np.random.default_rng(5)
    embeddings = oracle.embeddings_like(2, batch=BATCH, dim=DIM, seed=30)
    there = losses.memory_bank.MemoryBank(
        rng.normal(size=(5, DIM)).astype(np.float32), np.array([0, 2, 1, 2, 9], np.int32),
        np.array([True, True, True, False, True]), np.int32(3),
    )  # fmt: skip
    where = oracle.where_like(where, BATCH)
    return embeddings, oracle.labels_like("random", BATCH), where, there if bank == "bank" else None


@functools.cache
def expected(loss, views, where, bank):
    embeddings, labels, where, bank = batch_of(where, bank)
    value = functools.partial(
        oracle.BY_NAME[loss].expect, labels=labels, where=where, views=views, memory_bank=bank,
        temperature=TEMPERATURE,
    )  # fmt: skip
    return value(embeddings), oracle.differentiate(value, embeddings)


@pytest.mark.sampled(12)
def test_row(row):
    check(row)


@pytest.mark.parametrize("kind", BESIDE)
def test_beside_another_axis(kind):
    check(BESIDE[kind])


def check(row):
    case = dict(zip(COLUMNS, row, strict=True))
    embeddings, labels, where, bank = batch_of(case["where"], case["bank"])
    mesh, (_, batch_axes, others) = mesh_of(case["mesh"], case["kind"]), MESHES[case["mesh"]]
    rows = PartitionSpec(batch_axes)
    whole = case["way"].startswith("shard_map")
    narrow = PartitionSpec(batch_axes, None, *others) if not whole else rows
    named = case["way"] != "jit" or case["kind"] == "Auto"

    def value(embeddings, labels, where):
        return oracle.BY_NAME[case["loss"]].call(
            losses, embeddings, labels, where=where, views=case["views"], memory_bank=bank,
            temperature=TEMPERATURE, axis_name=batch_axes if named else None,
            implementation=case["implementation"],
        )  # fmt: skip

    call = both = jax.value_and_grad(value)
    if case["way"] != "jit":
        checked = not case["way"].endswith("unchecked")

        def local(*shard):
            result, gradient = both(*shard)
            # What every device has of its own: pmean's share, without its mean.
            return result, gradient if checked else gradient / lax.axis_size(batch_axes)

        call = jax.shard_map(
            local, in_specs=(rows,) * 3, out_specs=(PartitionSpec(), rows), check_vma=checked,
            axis_names=set(mesh.axis_names if whole else batch_axes),
        )  # fmt: skip
    with jax.set_mesh(mesh):
        arrays = (
            jax.device_put(x, NamedSharding(mesh, spec))
            for x, spec in ((embeddings, narrow), (labels, rows), (where, rows))
        )
        computed, gradient = jax.jit(call)(*arrays)
    loss, slope = expected(*(case[name] for name in ("loss", "views", "where", "bank")))
    np.testing.assert_allclose(computed, loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-5 * np.linalg.norm(slope))
    assert computed.sharding.is_fully_replicated
    if case["kind"] == "Explicit" and case["way"] == "jit":
        assert gradient.sharding.is_equivalent_to(NamedSharding(mesh, narrow), 3)


def on_mesh(name, kind, *arrays):
    """A mesh, and arrays with their rows over its batch axes."""
    mesh = mesh_of(name, kind)
    return mesh, jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(MESHES[name][1])))


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_scalars_and_values_of_rows(kind):
    """Under plain jit: derivatives by temperature and alpha, and reduction="none"."""
    embeddings, labels, where, _ = batch_of("padded")
    mesh, arrays = on_mesh("4 and model", kind, embeddings, labels, where)

    def both(axis_name):
        def values(scalars, embeddings, labels, where):
            rows = losses.spread(
                embeddings, labels, where=where, reduction="none", axis_name=axis_name,
                implementation="streaming", **scalars,
            )  # fmt: skip
            return jnp.sum(rows[:, 0]) - 3.0 * jnp.sum(rows[:, 1]), rows

        return jax.jit(jax.value_and_grad(values, has_aux=True))

    scalars = {"temperature": np.float32(0.4), "alpha": np.float32(0.2)}
    expected = both(None)(scalars, embeddings, labels, where)
    with jax.set_mesh(mesh):
        computed = both(None if kind == "Explicit" else "data")(scalars, *arrays)
    assert computed[0][1].sharding.spec[0] == "data"
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), computed, expected
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_every_other_function(kind):
    """The losses of single images and the memory bank, with nine rows on four devices of Auto."""
    batch = 9 if kind == "Auto" else 8
    rng = np.random.default_rng(1)
    values = rng.normal(size=batch).astype(np.float32)
    groups, where = rng.integers(0, 3, batch).astype(np.int32), np.arange(batch) != 4
    matrix = rng.random((batch, 3)).astype(np.float32)
    bank = losses.memory_bank.init(12, 3)

    def everything(axis_name):
        def call(values, groups, where, matrix):
            named = {"where": where, "axis_name": axis_name}
            robust = losses.robust
            return (
                robust.group_means(values, groups, 3, **named),
                robust.group_dro(values, groups, jnp.full(3, 1 / 3), **named),
                robust.weighted_mean(values, groups, **named),
                robust.early_learning_regularization(jnp.log(matrix), matrix / 2, **named),
                robust.small_loss_selection(values, 0.5, **named),
                losses.reconstruction(matrix, jnp.sin(matrix), **named),
                losses.reconstruction(matrix, jnp.sin(matrix), reduction="none", **named),
                losses.memory_bank.push(bank, matrix, groups, **named),
                losses.cross_modal(matrix, jnp.sin(matrix), groups, alpha=0.3, **named),
            )

        return call

    arrays = values, groups, where, matrix
    expected = jax.jit(everything(None))(*arrays)
    mesh = mesh_of("4", kind)
    if kind == "Explicit":
        arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        computed = jax.jit(everything(None if kind == "Explicit" else "data"))(*arrays)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), computed, expected
    )
    assert computed[7].embeddings.sharding.is_fully_replicated


def test_inside_a_shard_map_over_another_axis():
    """What is left to the compiler there is mapped by the loss."""
    embeddings, labels, *_ = batch_of()
    call = jax.jit(
        jax.shard_map(
            functools.partial(losses.supcon, axis_name="data", implementation="streaming"),
            in_specs=PartitionSpec(), out_specs=PartitionSpec(), axis_names={"model"},
        )
    )  # fmt: skip
    with jax.set_mesh(mesh_of("4 and model", "Auto")):
        computed = call(embeddings, labels)
    expected = oracle.BY_NAME["supcon"].expect(embeddings, labels)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


def test_axes_that_are_not_there():
    embeddings, labels, *_ = batch_of()
    call = jax.jit(functools.partial(losses.supcon, axis_name="batch"))
    with pytest.raises(ValueError, match=r"^axis_name: expected.*axes: none.*got 'batch'"):
        call(embeddings, labels)
    words = r"^axis_name: expected.*axes: 'data', 'model'.*got 'batch'"
    with jax.set_mesh(mesh_of("4 and model", "Auto")), pytest.raises(ValueError, match=words):
        call(embeddings, labels)


def streaming_by_default(monkeypatch):
    monkeypatch.setattr(losses.contrastive.pairs, "DENSE_UNTIL", 1)


def products(call, *shapes):
    """Floating point operations of a device."""
    found = hlo.summarize(jax.jit(call).lower(*shapes).compile().as_text())
    assert found.exact
    return found


def test_nothing_is_repeated_on_auto_axes(monkeypatch):
    """Without axis_name, streaming takes all Auto axes, whose devices would repeat its work."""
    monkeypatch.setitem(streaming.TILE, "cpu", 64)
    entries, dim = 4096, 8
    mesh = mesh_of("4 and model", "Auto")
    value = jax.value_and_grad(functools.partial(losses.supcon, temperature=0.1))
    placed = NamedSharding(mesh, PartitionSpec("data"))
    shapes = (
        jax.ShapeDtypeStruct((entries // 2, 2, dim), jnp.float32, sharding=placed),
        jax.ShapeDtypeStruct((entries // 2,), jnp.int32, sharding=placed),
    )
    found = products(value, *shapes)
    assert found.flops < 1.6 * 4 * entries**2 * dim / 8  # 512 entries a device: gathered


def test_share_of_a_device(monkeypatch):
    """N = 16,384 under plain jit: 4 N^2 d / P operations, and no N x N / P array."""
    monkeypatch.setitem(streaming.TILE, "cpu", 1024)
    entries, dim = 16384, 32
    mesh = mesh_of("8", "Explicit")
    placed = NamedSharding(mesh, PartitionSpec("data"))
    shapes = (
        jax.ShapeDtypeStruct((entries // 2, 2, dim), jnp.float32, sharding=placed),
        jax.ShapeDtypeStruct((entries // 2,), jnp.int32, sharding=placed),
    )
    found = products(jax.value_and_grad(functools.partial(losses.supcon, temperature=0.1)), *shapes)
    assert 1.0 <= found.flops / (4 * entries**2 * dim / 8) < 1.2
    assert found.largest_buffer.bytes <= 4 * 1024 * 1024 < 4 * entries**2 / 8


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Explicit", "Auto", "Auto, unnamed"])
def test_time_of_eight_devices(way, monkeypatch):
    """N = 8,192: eight devices of one machine take no longer than one, by more than 1.3."""
    monkeypatch.setitem(streaming.TILE, "cpu", 1024)
    embeddings = oracle.embeddings_like(2, batch=4096, dim=64)
    labels = (np.arange(4096) % 10).astype(np.int32)

    def compiled(arrays, axis_name=None):
        call = functools.partial(losses.supcon, temperature=0.1, axis_name=axis_name)
        call = jax.jit(jax.value_and_grad(call)).lower(*arrays).compile()
        jax.block_until_ready(call(*arrays))
        return call, arrays

    kind = way.partition(",")[0]
    mesh, arrays = on_mesh("8", kind, embeddings, labels)
    with jax.set_mesh(mesh):
        many = compiled(arrays, "data" if way == "Auto" else None)
    seconds = []
    for call, arguments in [compiled((embeddings, labels)), many] * 5:
        begun = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - begun)
    assert np.median(seconds[1::2]) < 1.3 * np.median(seconds[::2]), seconds


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_arrays_at_hand(kind, monkeypatch):
    """Outside jit, sharded arrays say where they lie; the second call compiles nothing."""
    streaming_by_default(monkeypatch)
    mapped, divided = placement._mapped, []

    def spy(compute, form, mesh, names, *rest):
        divided.append(names)
        return mapped(compute, form, mesh, names, *rest)

    monkeypatch.setattr(placement, "_mapped", spy)
    embeddings, labels, where, bank = batch_of("padded", "bank")
    mesh, arrays = on_mesh("4", kind, embeddings, labels, where)

    def both(temperature):
        value = functools.partial(losses.supcon, memory_bank=bank, temperature=temperature)
        return jax.value_and_grad(lambda z, y, w: value(z, y, where=w))

    with jax.set_mesh(mesh):
        computed, gradient = both(TEMPERATURE)(*arrays)
        with oracle.lowered_programs() as programs:
            both(TEMPERATURE)(*arrays)
            both(0.2)(*arrays)
    assert not programs
    assert divided == [("data",)] * 3
    assert gradient.sharding.is_equivalent_to(arrays[0].sharding, 3)
    value = functools.partial(
        oracle.BY_NAME["supcon"].expect, labels=labels, where=where, memory_bank=bank,
        temperature=TEMPERATURE,
    )  # fmt: skip
    np.testing.assert_allclose(computed, value(embeddings), rtol=1e-5)
    slope = oracle.differentiate(value, embeddings)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-5 * np.linalg.norm(slope))
