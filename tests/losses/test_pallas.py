"""The kernels, interpreted on CPU, against the dense implementation and against the plain loops."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from thanos_jax import losses
from thanos_jax.losses import pairs
from thanos_jax.losses.pairs import pallas, streaming
from thanos_jax.losses.pairs.pallas import gpu, tpu
from thanos_jax.losses.pairs.sharded import LOOPS

INTERPRET_GPU = getattr(plgpu, "InterpretGPUParams", None)
KERNELS = {
    "tpu": lambda: tpu.visits(True),
    "gpu": lambda: gpu.visits(INTERPRET_GPU()),
}
ON = pytest.mark.parametrize(
    "kernel",
    [
        "tpu",
        pytest.param(
            "gpu",
            marks=pytest.mark.skipif(
                INTERPRET_GPU is None, reason="jax before 0.11.2 has no interpreter for GPU kernels"
            ),
        ),
    ],
)
# Every set of candidates, and both ways of cutting a batch into tiles.
LOSSES = pytest.mark.parametrize(
    ("name", "views"),
    [
        pytest.param("info_nce", "cross", marks=pytest.mark.slow),
        pytest.param("supcon", "all", marks=pytest.mark.slow),
        ("spread", "cross"),
        pytest.param("attract", "all", marks=pytest.mark.slow),
    ],
)


def small_tiles(monkeypatch, kernel, size=8):
    """Tiles of at most `size` entries, so that a small batch has several; visits by a kernel."""
    monkeypatch.setattr(streaming, "TILE", {jax.default_backend(): size})
    implementation = functools.partial(streaming.statistics, visits=KERNELS[kernel]())
    monkeypatch.setitem(pairs.IMPLEMENTATIONS, "streaming", implementation)


def batch(seed=0, number=13, dim=5):
    """Odd sizes, several classes, negative labels, padding."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(number, 2, dim)).astype(np.float32)
    return embeddings, rng.integers(-2, 3, number).astype(np.int32), rng.random(number) < 0.8


def gradients(loss, implementation, *, views="all", temperature=None, axis_name=None):
    """(embeddings, labels, where[, temperature]) -> value, gradients; a traced or fixed one."""

    def value(embeddings, labels, where, temperature=temperature):
        return loss.call(
            losses, embeddings, labels, where=where, temperature=temperature, views=views,
            axis_name=axis_name, implementation=implementation,
        )  # fmt: skip

    return jax.jit(jax.value_and_grad(value, argnums=0 if temperature is not None else (0, 3)))


def assert_close(computed, expected, relative):
    """Each array within `relative` of the other, in units of its largest magnitude."""
    for have, want in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        assert have.dtype == want.dtype
        atol = relative * np.max(np.abs(np.asarray(want, np.float64)))
        np.testing.assert_allclose(
            np.asarray(have, np.float64), np.asarray(want, np.float64), rtol=0, atol=atol
        )


@pytest.mark.sampled(4)
@ON
@LOSSES
def test_fixed_temperature(monkeypatch, kernel, name, views):
    """Exponentials with a constant shift: what there are GPU kernels for."""
    small_tiles(monkeypatch, kernel)
    loss, arguments = oracle.BY_NAME[name], batch()
    computed, expected = (
        gradients(loss, implementation, views=views, temperature=0.1)(*arguments)
        for implementation in ("streaming", "dense")
    )
    assert_close(computed, expected, 3e-6)


@pytest.mark.sampled(4)
@ON
def test_traced_temperature(monkeypatch, kernel):
    """Running maxima, by the loops on GPUs; also the gradient of the temperature."""
    small_tiles(monkeypatch, kernel)
    loss, arguments = oracle.BY_NAME["spread_attract"], (*batch(1), np.float32(0.05))
    computed, expected = (
        gradients(loss, implementation)(*arguments) for implementation in ("streaming", "dense")
    )
    assert_close(computed, expected, 3e-6)


@pytest.mark.slow
@ON
def test_bfloat16(monkeypatch, kernel):
    """Products of bfloat16, as on accelerators: nearly the loops', and not far from float32's."""
    narrow = jnp.dtype(jnp.bfloat16)
    monkeypatch.setattr(streaming, "_operands", lambda entries: narrow)
    embeddings, labels, where = batch(2)
    arguments = embeddings.astype(narrow), labels, where
    loss = oracle.BY_NAME["spread"]
    small_tiles(monkeypatch, kernel)
    computed = gradients(loss, "streaming", temperature=0.1)(*arguments)
    dense = gradients(loss, "dense", temperature=0.1)(*arguments)
    monkeypatch.setitem(pairs.IMPLEMENTATIONS, "streaming", streaming.statistics)
    loops = gradients(loss, "streaming", temperature=0.1)(*arguments)
    # The gradient comes back in bfloat16, of 8 bits.
    assert computed[1].dtype == narrow
    assert_close(computed, loops, 5e-3)
    assert_close(computed[0], loops[0], 1e-5)
    assert_close(computed, dense, 5e-2)


@ON
def test_float64(monkeypatch, kernel):
    """There are no kernels of 64 bits: the loops take over, and keep the digits."""
    small_tiles(monkeypatch, kernel)
    embeddings, labels, where = batch(3)
    with jax.enable_x64(True):
        arguments = embeddings.astype(np.float64), labels, where
        computed, expected = (
            gradients(oracle.BY_NAME["spread"], name, temperature=0.1)(*arguments)
            for name in ("streaming", "dense")
        )
    assert_close(computed, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 2, reason="needs 2 (host) devices")
def test_ring_of_two(monkeypatch):
    """Pairs of tiles of two devices, some of them listed at run time."""
    small_tiles(monkeypatch, "tpu")
    ring = functools.partial(pairs.IMPLEMENTATIONS["streaming"], schedule="ring")
    monkeypatch.setitem(pairs.IMPLEMENTATIONS, "streaming", ring)
    loss, arguments = oracle.BY_NAME["spread"], batch(4, number=24)
    local = gradients(loss, "streaming", temperature=0.1, axis_name="data")

    def one(*shard):
        return jax.lax.pmean(local(*shard)[0], "data"), local(*shard)[1] / 2

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    data = PartitionSpec("data")
    # The interpreter itself does not pass the check; compiled for TPUs, the kernel does.
    sharded_loss = jax.shard_map(
        one, mesh=mesh, in_specs=data, out_specs=(PartitionSpec(), data), check_vma=False
    )
    computed = jax.jit(sharded_loss)(*arguments)
    assert_close(computed, gradients(loss, "dense", temperature=0.1)(*arguments), 3e-6)


# One visit at a time, with lists of pairs that the losses do not make.

# Columns come again at once, after one other, after two; rows 0 and 3 meet none.
PAIRS = np.array(
    [(1, c) for c in (0, 1, 1, 0, 1, 0, 2)] + [(2, c) for c in (2, 0, 2, 2)] + [(4, 2), (4, 2)],
    np.int32,
)


def block(tiles, seed, size=24, dim=5):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(tiles, size, dim)).astype(np.float32),
        "label": rng.integers(0, 3, (tiles, size)).astype(np.int32),
        "number": rng.integers(0, 40, (tiles, size)).astype(np.int32),
        "outside": np.where(rng.random((tiles, size)) < 0.2, -np.inf, 0.0).astype(np.float32),
    }


def sums_sweep(shift=0.0):
    choice = streaming.Choice(
        sets=("all", "same"),
        same_sum=True,
        one_positive=False,
        shift=shift,
        operands=jnp.dtype(jnp.float32),
        plan=None,
    )
    return streaming._sums(choice, {"label": jnp.zeros(1, jnp.int32), "number": 0, "outside": 0})


def check_visits(visits, what, pairs):
    rows, columns = block(5, seed=1), block(3, seed=2)
    rows, columns = (jax.tree.map(jnp.asarray, tree) for tree in (rows, columns))
    # Padding has no similarity, as that of the losses.
    for tree in (rows, columns):
        tree["x"] = jnp.where(tree["outside"][..., None] == 0.0, 0.5 * tree["x"], 0.0)

    @functools.partial(jax.jit, static_argnums=0)
    def visit(visits, rows, columns):
        sums = jax.tree.map(lambda zeros: zeros + 1.0, what.initial(rows))
        different = pairs[PAIRS[:, 0] != PAIRS[:, 1]]
        return (
            visits.rows(what, rows, columns, pairs, sums, True),
            visits.two(what, rows, columns, pairs, sums),
            visits.both(what, rows, different, sums),
        )

    assert_close(visit(visits, rows, columns), visit(LOOPS, rows, columns), 1e-5)


@pytest.mark.slow
@ON
def test_any_pairs(kernel):
    """Given at run time, as those of opposite devices are."""
    check_visits(KERNELS[kernel](), sums_sweep(), jnp.asarray(PAIRS))


@pytest.mark.slow
def test_tpu_copies(capsys):
    """Column sums move by copies of the kernel's own: the interpreter looks for races."""
    visits = tpu.visits(pltpu.InterpretParams(detect_races=True))
    check_visits(visits, sums_sweep(), PAIRS)
    assert "RACE" not in capsys.readouterr().out


@pytest.mark.slow
def test_tpu_many_pairs(monkeypatch):
    """Lists longer than scalar memory are cut, here after every third pair."""
    monkeypatch.setattr(tpu, "_PAIRS", 3)
    check_visits(tpu.visits(True), sums_sweep(), PAIRS)


@pytest.mark.slow
def test_tpu_wide_rows(monkeypatch):
    """Tiles too large for vector memory are cut: here 300 entries into four parts."""
    rows = {name: jnp.asarray(x) for name, x in block(2, seed=3, size=300).items()}
    what = sums_sweep()
    sums, pairs = what.initial(rows), np.array([[0, 1]], np.int32)
    monkeypatch.setattr(tpu, "_VMEM", 2**20)
    assert tpu._parts(rows, rows, sums, sums) == 4
    have, want = (v.both(what, rows, pairs, sums) for v in (tpu.visits(True), LOOPS))
    assert_close(have, want, 1e-5)


def test_tpu_memory_limit_names_real_shapes():
    """The bound asked of the compiler grows with the width and shrinks with the parts."""
    what = sums_sweep()

    def memory(dim, parts=1):
        rows = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, block(2, 0, size=256, dim=dim)))
        sums = jax.eval_shape(what.initial, rows)
        return tpu._memory(rows, rows, sums, sums, parts)

    # Embeddings are there four times, and what is added up for them twice: 256 rows of 4 bytes.
    assert memory(1024) - memory(512) == 6 * 256 * 512 * 4
    assert memory(512, parts=2) < memory(512)


def test_gpu_forms():
    """What the GPU kernels are for, and what goes to the loops."""
    entries = jax.tree.map(jnp.asarray, block(2, seed=0))
    what = sums_sweep()

    def form(**changes):
        choice = what.choice._replace(**changes)
        return gpu._form(what._replace(choice=choice), entries, entries)

    assert form().pieces == 3
    assert form(operands=jnp.dtype(jnp.bfloat16)).pieces == 1
    assert form(shift=None) is None
    assert form(one_positive=True) is None
    assert gpu._form(what._replace(name="one_positive"), entries, entries) is None
    for dim, fits in ((128, True), (129, False)):
        wide = entries | {"x": jnp.zeros((2, 24, dim))}
        assert (gpu._form(what, wide, wide) is not None) == fits


def test_gpu_pieces():
    """Three bfloat16 hold a float32 to the last bit but one."""
    numbers = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    pieces = [np.asarray(piece, np.float64) for piece in gpu._pieces(jnp.asarray(numbers), 3)]
    np.testing.assert_allclose(sum(pieces), numbers, rtol=2**-23)
    assert np.max(np.abs(pieces[0] - numbers) / np.abs(numbers)) > 2**-10


@pytest.mark.parametrize("kernel", ["tpu", "gpu"])
def test_lowers(monkeypatch, kernel):
    """The compiler's first half runs anywhere: every operation has a rule on its platform."""
    visits = tpu.visits() if kernel == "tpu" else gpu.visits()
    implementation = functools.partial(streaming.statistics, visits=visits)
    monkeypatch.setitem(pairs.IMPLEMENTATIONS, "streaming", implementation)
    monkeypatch.setattr(streaming, "TILE", {jax.default_backend(): 256})
    step = gradients(oracle.BY_NAME["spread"], "streaming", temperature=0.1)
    arguments = [np.zeros((300, 2, 100), np.float32), np.zeros(300, np.int32), np.ones(300, bool)]
    platform = {"tpu": "tpu", "gpu": "cuda"}[kernel]
    text = step.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    # Tiles with themselves and with others, forwards and backwards.
    assert text.count({"tpu": "@tpu_custom_call", "gpu": "@mosaic_gpu"}[kernel]) >= 4


# Which kernels are taken.


def entries():
    return pairs.make_entries(
        jnp.ones((3, 2, 4)), jnp.arange(3), jnp.ones(3, bool), normalized=True, axis_name=None
    )


def statistics():
    return pallas.statistics(
        entries(), temperature=0.1, views="all", names=("log_sum_all",), axis_name=None
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there may be a kernel for it")
def test_no_kernel_on_cpu():
    with pytest.raises(ValueError, match=r'implementation="pallas".*needs a TPU.*got cpu'):
        statistics()


def pretend(monkeypatch, backend, kind, **more):
    device = types.SimpleNamespace(device_kind=kind, **more)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])


@pytest.mark.parametrize("capability", ["8.0", "10.0"])
def test_no_kernel_on_other_gpus(monkeypatch, capability):
    pretend(monkeypatch, "gpu", "Some GPU", compute_capability=capability)
    with pytest.raises(ValueError, match=rf"needs a TPU.*9\.0.*Some GPU.*{capability}"):
        statistics()


@pytest.mark.parametrize("kind", ["TPU v3", "TPU v4", "TPU v4 lite"])
def test_no_kernel_on_old_tpus(monkeypatch, kind):
    pretend(monkeypatch, "tpu", kind)
    with pytest.raises(ValueError, match=f"needs a TPU v5e.*got tpu .{kind}"):
        statistics()


@pytest.mark.parametrize("kind", ["TPU v5 lite", "TPU v5p", "TPU v6 lite", "TPU7x"])
def test_choice_on_tpus(monkeypatch, kind):
    pretend(monkeypatch, "tpu", kind)
    assert pallas._visits() is tpu.visits()


def test_choice_on_hopper(monkeypatch):
    pretend(monkeypatch, "gpu", "NVIDIA H100 80GB HBM3", compute_capability="9.0")
    assert pallas._visits() is gpu.visits()
