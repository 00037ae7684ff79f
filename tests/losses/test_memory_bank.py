"""The memory bank: what losses make of it, on one device and on many."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from banks import DIM, LABELS, WHERE, bank_of
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from thanos_jax import losses

MemoryBank = losses.memory_bank.MemoryBank
ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)
# Rows that between them hold every term of every loss; where compiling takes long, they stand for
# the others, which are sums of these.
FEW = [oracle.BY_NAME[k] for k in ("spread", "joint_attract")]
SEVERAL = pytest.mark.parametrize(
    ("loss", "implementation"),
    [
        (loss, implementation)
        for implementation in oracle.IMPLEMENTATIONS
        for loss in (oracle.LOSSES if implementation in oracle.QUICK else FEW)
    ],
    ids=str,
)
SPREAD = oracle.BY_NAME["spread_attract"]
IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
NEEDS_EIGHT = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")


def scalars(loss):
    weights = {name: loss.options[name] for name in ("alpha", "beta") if name in loss.options}
    return {"temperature": 0.3, **weights}


@functools.cache
def compiled(loss, implementation, views="all", normalize=True):
    """Values of both reductions, and gradients for embeddings, numbers and the bank's vectors."""

    def value(embeddings, numbers, vectors, bank, labels, where, reduction="mean"):
        return loss.call(
            losses, embeddings, labels, where=where, views=views, normalize=normalize,
            memory_bank=bank._replace(embeddings=vectors),
            implementation=implementation, reduction=reduction, **numbers,
        )  # fmt: skip

    def everything(embeddings, numbers, bank, labels, where):
        arguments = (embeddings, numbers, bank.embeddings, bank, labels, where)
        mean, gradients = jax.value_and_grad(value, argnums=(0, 1, 2))(*arguments)
        return {"mean": mean, "none": value(*arguments, reduction="none")}, gradients

    return jax.jit(everything)


def check(loss, implementation, embeddings, bank, labels=LABELS, where=WHERE, *, views="all",
          normalize=True, relative=1e-5):  # fmt: skip
    """Values and gradients against the oracle; returns what was computed."""
    numbers = {name: np.float32(x) for name, x in scalars(loss).items()}
    everything = compiled(loss, implementation, views, normalize)
    values, (by_embeddings, by_number, by_bank) = everything(
        embeddings, numbers, bank, labels, where
    )
    expect = functools.partial(
        loss.expect, labels=labels, where=where, views=views, normalize=normalize, memory_bank=bank
    )
    for reduction in ("mean", "none"):
        expected = expect(embeddings, **numbers, reduction=reduction)
        np.testing.assert_allclose(values[reduction], expected, rtol=relative, atol=relative / 10)
    gradients = [(by_embeddings, oracle.differentiate(lambda z: expect(z, **numbers), embeddings))]
    for name, number in numbers.items():
        changed = functools.partial(lambda x, name: expect(embeddings, **numbers | {name: x}),
                                    name=name)  # fmt: skip
        gradients.append((by_number[name], oracle.differentiate(changed, number)))
    for have, want in gradients:
        scale = np.linalg.norm(want) + 0.1
        np.testing.assert_allclose(
            np.asarray(have, np.float64), want, rtol=0, atol=2 * relative * scale
        )
    assert np.all(np.asarray(by_embeddings)[~where] == 0)
    assert by_bank.shape == bank.embeddings.shape
    assert np.all(np.asarray(by_bank) == 0)
    return values


@pytest.mark.sampled(6)
@SEVERAL
def test_views_all(loss, implementation):
    check(loss, implementation, oracle.embeddings_like(2, seed=31), bank_of())


@IMPLEMENTED
@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint"], SPREAD], ids=repr)
def test_views_cross(loss, implementation):
    """The bank's entries are candidates of anchors of every view."""
    check(loss, implementation, oracle.embeddings_like(2, seed=31), bank_of(), views="cross")


def test_without_normalization():
    embeddings = oracle.embeddings_like(2, seed=32)
    check(SPREAD, "dense", embeddings, bank_of(seed=33), normalize=False, relative=2e-5)


@IMPLEMENTED
def test_temperature_known_in_advance(implementation):
    """Where it is, streaming shifts exponentials by a constant, forwards and backwards."""
    bank, embeddings = bank_of(), oracle.embeddings_like(2, seed=45)
    call = functools.partial(
        SPREAD.call, losses, labels=LABELS, temperature=0.2, memory_bank=bank,
        implementation=implementation,
    )  # fmt: skip
    value, gradient = jax.jit(jax.value_and_grad(call))(embeddings)
    expect = functools.partial(SPREAD.expect, labels=LABELS, temperature=0.2, memory_bank=bank)
    np.testing.assert_allclose(value, expect(embeddings), rtol=1e-5)
    expected = oracle.differentiate(expect, embeddings)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.linalg.norm(expected))


@IMPLEMENTED
def test_positives_in_the_bank_alone(implementation):
    """One view, all labels different: what counts is an anchor with a class-mate in the bank."""
    loss = oracle.BY_NAME["attract"]
    labels = np.array([1, 0, 3, 2, 4, 6, 8, 9, 10, 11, 12, 13], np.int32)
    embeddings, bank = oracle.embeddings_like(1, seed=34), bank_of()
    values = check(loss, implementation, embeddings, bank, labels, np.ones(12, bool))
    in_bank = np.isin(labels, bank.labels[bank.filled])
    assert np.flatnonzero(in_bank).tolist() == [0, 1, 3]
    assert np.all((np.asarray(values["none"])[:, 0] != 0) == in_bank)


@IMPLEMENTED
def test_padding_alone(implementation):
    """Entries of the bank are no anchors: without anchors the loss is 0."""
    loss, embeddings = oracle.BY_NAME["joint_attract"], oracle.embeddings_like(2, seed=35)
    values = check(loss, implementation, embeddings, bank_of(), where=WHERE & False)
    assert values["mean"] == 0


@pytest.mark.sampled(18)
@SEVERAL
def test_empty_bank_is_no_bank(loss, implementation):
    embeddings = oracle.embeddings_like(2, seed=36)
    empty = bank_of(filled=np.zeros(10, bool))
    values = check(loss, implementation, embeddings, empty)
    call = functools.partial(loss.call, losses, embeddings, LABELS, where=WHERE, **scalars(loss))
    for reduction, value in values.items():
        alone = call(reduction=reduction, implementation="dense")
        np.testing.assert_allclose(value, alone, rtol=1e-6, atol=1e-6)
    started = losses.memory_bank.init(size=10, dim=DIM)
    alone = call(memory_bank=started, implementation="dense")
    np.testing.assert_allclose(alone, values["mean"], rtol=1e-6)


@IMPLEMENTED
def test_info_nce_knows_no_labels(implementation):
    """The bank's labels make no difference to it, nor whether it has any."""
    embeddings, bank = oracle.embeddings_like(2, seed=37), bank_of()
    call = jax.jit(functools.partial(losses.info_nce, embeddings, implementation=implementation))
    expected = call(memory_bank=bank)
    for labels in (None, np.arange(10, dtype=np.int32), np.full(10, -1, np.int32)):
        other = bank._replace(labels=labels)
        assert call(memory_bank=other) == expected


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("implementation", "dtype", "kept", "computed"),
    [
        ("dense", "float32", "bfloat16", "float32"),
        ("dense", "float32", "float64", "float32"),
        ("dense", "float64", "float16", "float64"),
        ("dense", "bfloat16", "float32", "float32"),
        ("streaming", "float32", "bfloat16", "float32"),
        ("streaming", "float64", "float32", "float64"),
        ("streaming", "bfloat16", "bfloat16", "float32"),
    ],
)
def test_dtypes_of_embeddings(implementation, dtype, kept, computed):
    """The loss is computed in the embeddings' dtype, from what the bank holds after rounding."""
    loss = SPREAD
    bank = bank_of(dtype=jnp.dtype(kept))
    embeddings = oracle.embeddings_like(2, seed=38, dtype=jnp.dtype(dtype))
    call = functools.partial(loss.call, losses, implementation=implementation)
    with jax.enable_x64("float64" in (dtype, kept)):
        value = jax.jit(lambda z, bank: call(z, LABELS, memory_bank=bank))(embeddings, bank)
    assert value.dtype == computed
    expected = loss.expect(embeddings, LABELS, memory_bank=bank)
    np.testing.assert_allclose(value, expected, rtol=1e-5 if computed == "float32" else 1e-10)


BELOW, ABOVE = np.iinfo(np.int32).min, np.iinfo(np.int32).max


LABEL_DTYPES = [
    (False, (0, 1, 255, 127, 2, 1), "uint8", (0, 255, -1, 127, 1, 9), "int32"),
    (False, (0, 1, -1, 127, 2, -128), "int8", (0, 255, 128, 127, 1, 9), "uint8"),
    (False, (BELOW, ABOVE, -1, 0, 1, 7), "int32", (-1, 7, 100, -100, 0, 1), "int8"),
    (False, (0, 1, 2**32 - 1, 5, 2, 1), "uint32", (0, 2**32 - 1, 7, 2, 1, 9), "uint32"),
    (True, (0, 1, 2**32 - 1, 5, 2, 1), "uint32", (0, -1, 7, 2, 1, 9), "int32"),
    (True, (0, 1, 2**32, 5 - 2**32, 2, 1), "int64", (0, 5, 7, 2, 1, 9), "int32"),
    (True, (0, 1, -1, BELOW, ABOVE, 1), "int32", (2**32, 2**32 - 1, 0, 1, ABOVE, 9), "int64"),
]


@pytest.mark.parametrize(
    ("implementation", "x64", "labels", "dtype", "theirs", "kept"),
    [
        *[("dense", *row) for row in LABEL_DTYPES],
        *[("streaming", *LABEL_DTYPES[i]) for i in (1, 3)],
    ],
)
def test_dtypes_of_labels(implementation, x64, labels, dtype, theirs, kept):
    """Numbers are compared, not their bits."""
    loss = oracle.BY_NAME["supcon"]
    labels, theirs = np.array(labels, dtype), np.array(theirs, kept)
    bank = bank_of(range(6), filled=np.ones(6, bool))._replace(labels=theirs)
    keywords = {"memory_bank": bank, "reduction": "none"}
    embeddings = oracle.embeddings_like(2, seed=39)
    with jax.enable_x64(x64):
        call = functools.partial(loss.call, losses, implementation=implementation, **keywords)
        value = jax.jit(call)(embeddings, labels)
    expected = loss.expect(embeddings, labels, **keywords)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_dtypes_of_labels_that_cannot_be_compared():
    """In 32 bits, 2^32 - 1 and -1 are the same; better no loss than that."""
    bank = bank_of()
    embeddings = oracle.embeddings_like(2, seed=40)
    unsigned = LABELS.astype(np.uint32)
    with pytest.raises(TypeError, match=r"labels.*int32 of memory_bank\.labels.*uint32\[6\]"):
        losses.supcon(embeddings, unsigned, memory_bank=bank)
    # Renamed to their ranks, as without a bank, they would meet the wrong ones.
    far = LABELS.astype(np.int64) + 2**40
    assert np.isfinite(losses.supcon(embeddings, far))
    with pytest.raises(ValueError, match=r"labels.*int32.*int64\[6\] from 1099511627776"):
        losses.supcon(embeddings, far, memory_bank=bank)
    wide = bank._replace(labels=bank.labels.astype(np.int64))
    with jax.enable_x64(True), pytest.raises(TypeError, match=r"labels.*int64.*uint64\[6\]"):
        losses.supcon(embeddings, LABELS.astype(np.uint64), memory_bank=wide)


@IMPLEMENTED
def test_vmap(implementation):
    """A bank each."""
    loss = SPREAD
    banks = [bank_of(seed=seed, filled=np.arange(10) % 3 != seed % 3) for seed in (41, 42)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *banks)
    embeddings = np.stack([oracle.embeddings_like(2, seed=seed) for seed in (43, 44)])
    call = functools.partial(loss.call, losses, implementation=implementation)

    def value(embeddings, bank):
        return call(embeddings, LABELS, memory_bank=bank)

    computed = jax.jit(jax.vmap(value))(embeddings, stacked)
    expected = [loss.expect(embeddings[i], LABELS, memory_bank=banks[i]) for i in range(2)]
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


# On many devices.


def mapped(way, function, num_whole, num_split, whole_out=True):
    """A function of whole arguments, then of arguments split over 8 devices, on global arrays.

    Its results are the same on every device (whole_out), or split like the batch.
    """
    if way in ("pmap", "vmap"):
        axes = (None,) * num_whole + (0,) * num_split
        several = functools.partial(jax.pmap if way == "pmap" else jax.vmap, axis_name="data")
        over = jax.jit(several(function, in_axes=axes, out_axes=0))

        def call(*arguments):
            whole, shards = arguments[:num_whole], arguments[num_whole:]
            shards = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), shards)
            results = over(*whole, *shards)
            for leaf in jax.tree.leaves(results) if whole_out else ():
                assert np.array_equal(leaf, np.stack([leaf[0]] * 8))
            return jax.tree.map(lambda x: x[0], results) if whole_out else results

        return call
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, split = PartitionSpec(), PartitionSpec("data")
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=(everywhere,) * num_whole + (split,) * num_split,
            out_specs=everywhere if whole_out else split, check_vma=way == "shard_map",
        )
    )  # fmt: skip


def sharded_batch(seed=50):
    embeddings = oracle.embeddings_like(2, batch=16, seed=seed)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 1, -5], np.int32)
    return embeddings, labels, np.arange(16) % 5 != 1


@pytest.mark.sampled(6)
@NEEDS_EIGHT
@pytest.mark.parametrize(("name", "implementation", "way", "views"), [
    *[("joint_attract", i, "shard_map", "all") for i in oracle.SHARDED],
    ("spread", "streaming_gather", "pmap", "cross"),
    ("spread", "streaming_ring", "shard_map_unchecked", "cross"),
    ("info_nce", "dense", "vmap", "all"),
])  # fmt: skip
def test_losses_on_eight_devices(name, implementation, way, views):
    """The recipe of test_sharding.py, with the bank whole on every device."""
    loss, bank = oracle.BY_NAME[name], bank_of()
    params = {"encoder": np.eye(DIM, dtype=np.float32), "temperature": np.float32(0.4)}

    def value(params, bank, embeddings, labels, where, axis_name, implementation):
        return loss.call(
            losses, jnp.einsum("bvf,fd->bvd", embeddings, params["encoder"]), labels, where=where,
            temperature=params["temperature"], memory_bank=bank, axis_name=axis_name, views=views,
            implementation=implementation,
        )  # fmt: skip

    def local(*arguments):
        function = functools.partial(value, axis_name="data", implementation=implementation)
        result, gradients = jax.value_and_grad(function)(*arguments)
        return result, lax.pmean(gradients, "data")

    arrays = sharded_batch()
    computed = mapped(way, local, 2, 3)(params, bank, *arrays)
    alone = functools.partial(value, axis_name=None, implementation="dense")
    expected = jax.jit(jax.value_and_grad(alone))(params, bank, *arrays)
    to_numpy = functools.partial(jax.tree.map, np.asarray)
    chex.assert_trees_all_close(to_numpy(computed), to_numpy(expected), rtol=1e-5, atol=1e-6)
    embeddings, labels, where = arrays
    from_oracle = loss.expect(
        embeddings, labels, where=where, views=views, memory_bank=bank, temperature=0.4
    )
    np.testing.assert_allclose(expected[0], from_oracle, rtol=1e-5)


@pytest.mark.sampled(6)
@NEEDS_EIGHT
@pytest.mark.parametrize(("way", "size", "dtype"), [
    ("shard_map", 7, "bfloat16"), ("shard_map", 40, "float32"), ("pmap", 40, "bfloat16"),
    ("shard_map_unchecked", 40, "float16"), ("vmap", 7, "float32"),
])  # fmt: skip
def test_push_on_eight_devices(way, size, dtype):
    """Every device has the bank that one device would have, bit for bit, after each of two."""
    bank = losses.memory_bank.init(size, DIM, dtype=dtype, label_dtype=jnp.int16)
    push = functools.partial(losses.memory_bank.push, axis_name="data")

    def step(bank, embeddings, labels, where):
        return push(bank, embeddings, labels, where=where)

    together = mapped(way, step, 1, 3)
    expected = bank
    for seed in (51, 52):
        embeddings, labels, where = sharded_batch(seed)
        labels = labels.astype(np.int16)
        bank = together(bank, embeddings, labels, where)
        expected = losses.memory_bank.push(expected, embeddings, labels, where=where)
        chex.assert_trees_all_equal(*(jax.tree.map(np.asarray, x) for x in (bank, expected)))
    assert np.sum(bank.filled) == min(size, 2 * 2 * 13)


@NEEDS_EIGHT
def test_push_over_two_axes():
    mesh = jax.make_mesh((2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)
    axes = ("replica", "data")
    embeddings, labels, _ = sharded_batch(53)
    together = jax.shard_map(
        lambda *arguments: losses.memory_bank.push(*arguments, axis_name=axes),
        mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(axes), PartitionSpec(axes)),
        out_specs=PartitionSpec(),
    )  # fmt: skip
    bank = losses.memory_bank.init(20, DIM)
    expected = losses.memory_bank.push(bank, embeddings, labels)
    bank = jax.jit(together)(bank, embeddings, labels)
    chex.assert_trees_all_equal(*(jax.tree.map(np.asarray, x) for x in (bank, expected)))
