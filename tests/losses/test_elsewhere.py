"""Losses and banks that leave the program: exported, saved; and what errors say about ways out."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import orbax.checkpoint
import pytest
from flax import serialization
from jax import export, lax
from jax.sharding import AxisType, PartitionSpec

from thanos_jax import losses

EMBEDDINGS, LABELS = oracle.embeddings_like(2, seed=70), oracle.labels_like("random")
DIM = EMBEDDINGS.shape[-1]
FEW = pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


@FEW
def test_export_of_any_batch(loss):
    """A symbolic batch is computed densely, value and gradient."""
    (batch,) = export.symbolic_shape("batch")
    call = jax.jit(jax.value_and_grad(lambda z, y, w: loss.call(losses, z, y, where=w)))
    exported = export.export(call)(
        jax.ShapeDtypeStruct((batch, 2, DIM), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.ShapeDtypeStruct((batch,), bool),
    )
    for size in (6, 4):
        arrays = EMBEDDINGS[:size], LABELS[:size], np.arange(size) != 2
        jax.tree.map(close, exported.call(*arrays), call(*arrays))


@FEW
def test_export_of_streaming(loss):
    """Fixed shapes, for devices that are not there."""
    call = jax.jit(
        jax.value_and_grad(lambda z, y: loss.call(losses, z, y, implementation="streaming"))
    )
    exported = export.export(call, platforms=("cpu", "cuda", "tpu"))(EMBEDDINGS, LABELS)
    jax.tree.map(close, exported.call(EMBEDDINGS, LABELS), call(EMBEDDINGS, LABELS))


push = jax.jit(losses.memory_bank.push)
info_nce = jax.jit(losses.info_nce)


def banks():
    with_labels = push(losses.memory_bank.init(6, DIM), EMBEDDINGS[:2], LABELS[:2])
    without = losses.memory_bank.init(6, DIM, label_dtype=None)
    return {"labels": with_labels, "none": push(without, EMBEDDINGS[:2])}


def through_pickle(bank, folder):
    return pickle.loads(pickle.dumps(bank))


def through_flax(bank, folder):
    empty = losses.memory_bank.init(6, DIM, label_dtype=None if bank.labels is None else int)
    return serialization.from_bytes(empty, serialization.to_bytes(bank))


def through_orbax(bank, folder):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", {"bank": bank, "step": 3})
        checkpointer.wait_until_finished()
        return losses.memory_bank.MemoryBank(**checkpointer.restore(folder / "state")["bank"])


def through_export(bank, folder):
    pytest.importorskip("flatbuffers")
    exported = export.export(jax.jit(lambda bank: bank))(bank)
    return export.deserialize(exported.serialize()).call(bank)


@pytest.mark.sampled(4)
@pytest.mark.filterwarnings("ignore")  # of Orbax, about restoring without a target
@pytest.mark.parametrize("way", [through_flax, through_orbax, through_pickle, through_export])
@pytest.mark.parametrize("labels", ["labels", "none"])
def test_bank_through_serializers(way, labels, tmp_path):
    bank = banks()[labels]
    again = way(bank, tmp_path)
    assert isinstance(again, losses.memory_bank.MemoryBank)
    jax.tree.map(np.testing.assert_array_equal, again, bank)
    assert info_nce(EMBEDDINGS, memory_bank=again) == info_nce(EMBEDDINGS, memory_bank=bank)
    push(again, EMBEDDINGS, LABELS if labels == "labels" else None)


@pytest.mark.parametrize("derivative", [jax.jacfwd, lambda f: lambda z: jax.jvp(f, (z,), (z,))])
def test_forward_mode_names_dense(derivative):
    value = functools.partial(losses.supcon, labels=LABELS, implementation="streaming")
    with pytest.raises(TypeError, match=r'forward-mode(.|\n)*implementation="dense"'):
        derivative(value)(EMBEDDINGS)


def test_second_derivatives_of_streaming():
    """Reverse mode over reverse mode, and forward mode over it, as the docstrings promise."""

    def second(implementation):
        value = functools.partial(losses.supcon, labels=LABELS, implementation=implementation)
        again = jax.grad(lambda z: jnp.sum(jnp.sin(jax.grad(value)(z))))

        def product(z):
            return jax.jvp(jax.grad(value), (z,), (jnp.cos(z),))[1]

        return jax.jit(lambda z: (again(z), product(z)))(EMBEDDINGS)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        second("streaming"), second("dense"),
    )  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("implementation", oracle.SHARDED)
@pytest.mark.parametrize("outer", [jax.vmap, jax.pmap])
def test_several_axes_of_vmap(outer, implementation):
    """Jax has no collectives over them."""
    call = functools.partial(
        losses.supcon, axis_name=("outer", "inner"), implementation=implementation
    )
    mapped = outer(jax.vmap(call, axis_name="inner"), axis_name="outer")
    with pytest.raises(ValueError, match=r"^axis_name.*one axis.*'outer', 'inner'.*shard_map"):
        jax.jit(mapped)(EMBEDDINGS[:4].reshape(2, 2, 1, 2, DIM), LABELS[:4].reshape(2, 2, 1))


# The table of gradients on devices in the docstring of `thanos_jax.losses`: name -> how the
# gradient of parameters that are the same on every device is had from a shard's loss.
P = PartitionSpec
SCALE = np.float32(1.3)


def checked(value, scale, z, y, *, vma):
    def local(scale, z, y):
        return lax.pmean(jax.grad(value)(scale, z, y), "data")

    return jax.shard_map(local, in_specs=(P(), P("data"), P("data")), out_specs=P(), check_vma=vma)(
        scale, z, y
    )


def summed(value, scale, z, y):
    """Psum, and the loss divided by the number of devices."""

    def local(scale, z, y):
        def share(scale):
            return value(scale, z, y) / lax.axis_size("data")

        return lax.psum(jax.grad(share)(scale), "data")

    return jax.shard_map(
        local, in_specs=(P(), P("data"), P("data")), out_specs=P(), check_vma=False
    )(scale, z, y)


def varying(value, scale, z, y):
    def local(scale, z, y):
        mine = lax.pcast(scale, "data", to="varying")
        return lax.psum(jax.grad(value)(mine, z, y), "data")

    return jax.shard_map(local, in_specs=(P(), P("data"), P("data")), out_specs=P())(scale, z, y)


def outside(value, scale, z, y):
    mapped = jax.shard_map(value, in_specs=(P(), P("data"), P("data")), out_specs=P())
    return jax.grad(mapped)(scale, z, y)


def sharded(value, scale, z, y):
    """FSDP: parameters split over the devices, gathered for the loss."""

    def local(part, z, y):
        def gathered(part):
            return value(lax.all_gather(part, "data", tiled=True)[0], z, y)

        return jax.grad(gathered)(part)

    parts = jnp.broadcast_to(scale, (4,))
    mapped = jax.shard_map(local, in_specs=(P("data"), P("data"), P("data")), out_specs=P("data"))
    return mapped(parts, z, y)[0]


WAYS = {
    "pmean": functools.partial(checked, vma=True),
    "pmean unchecked": functools.partial(checked, vma=False),
    "psum": summed,
    "pcast": varying,
    "fsdp": sharded,
    "outside": outside,
}


@pytest.mark.sampled(4)  # every way, in turns with either
@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 (host) devices")
@pytest.mark.parametrize(
    ("way", "implementation"),
    [
        (way, implementation)
        for way, both in zip(
            WAYS, 3 * (oracle.IMPLEMENTATIONS, oracle.IMPLEMENTATIONS[::-1]), strict=True
        )
        for implementation in both
    ],
)
def test_gradients_on_devices(way, implementation):
    z, y = oracle.embeddings_like(2, batch=8, seed=70), oracle.labels_like("random", 8)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def value(scale, z, y, axis_name="data"):
        shifted = z + scale * jnp.sin(z)
        return losses.supcon(shifted, y, axis_name=axis_name, implementation=implementation)

    expected = jax.jit(jax.grad(functools.partial(value, axis_name=None)))(SCALE, z, y)
    with jax.set_mesh(mesh):
        computed = jax.jit(functools.partial(WAYS[way], value))(SCALE, z, y)
    close(computed, expected)
