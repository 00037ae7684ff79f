"""One global loss and gradient, however the batch is spread over devices.

The recipe held here: each device takes the gradient of the loss with `axis_name`, then
`lax.pmean` over the axis; the result is one device's gradient, under pmap, vmap and shard_map.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from thanos_jax import losses

ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)
# Rows that between them hold every term of every loss; the others are sums of these.
FEW = pytest.mark.parametrize(
    "loss", [oracle.BY_NAME[k] for k in ("spread", "joint_attract")], ids=repr
)
IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.SHARDED)
FEATURES, DIM, NUM_VIEWS = 6, 4, 2

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")


def parameters():
    rng = np.random.default_rng(0)
    encoder = rng.normal(size=(FEATURES, DIM)).astype(np.float32)
    return {"encoder": encoder, "temperature": np.float32(0.4)}


def embed(params, images):
    return jnp.einsum("bvf,fd->bvd", images, params["encoder"])


def embed_once(images):
    return np.einsum("bvf,fd->bvd", images, parameters()["encoder"])


def batch(labels, where=None, seed=1):
    """Global images [batch, views, features], labels and where."""
    labels = np.array(labels, np.int32)
    where = np.ones(len(labels), bool) if where is None else np.array(where, bool)
    images = np.random.default_rng(seed).normal(size=(len(labels), NUM_VIEWS, FEATURES))
    return images.astype(np.float32), labels, where


def mesh_of(shape, names):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


def objective(loss, implementation, views, axis_name):
    def value(params, images, labels, where, reduction="mean"):
        return loss.call(
            losses, embed(params, images), labels, where=where, views=views,
            temperature=params["temperature"], axis_name=axis_name, reduction=reduction,
            implementation=implementation,
        )  # fmt: skip

    return value


@functools.cache
def one_device(loss, implementation, views):
    return jax.jit(jax.value_and_grad(objective(loss, implementation, views, None)))


@functools.cache
def many_devices(loss, implementation, views, way, count):
    """(params, global batch) -> value and gradients by the recipe.

    Under pmap and vmap value and gradients come from every device, with a leading axis [count].
    """
    value = objective(loss, implementation, views, "data")

    def local(params, *shard):
        result, gradients = jax.value_and_grad(value)(params, *shard)
        return result, lax.pmean(gradients, "data")

    if way == "pmap":
        mapped = jax.pmap(
            local, axis_name="data", in_axes=(None, 0, 0, 0), devices=jax.devices()[:count]
        )
    elif way == "vmap":
        mapped = jax.jit(jax.vmap(local, axis_name="data", in_axes=(None, 0, 0, 0)))
    else:
        spec, everywhere = PartitionSpec("data"), PartitionSpec()
        return jax.jit(
            jax.shard_map(
                local, mesh=mesh_of((count,), ("data",)), in_specs=(everywhere, spec, spec, spec),
                out_specs=(everywhere, everywhere), check_vma=way == "shard_map",
            )
        )  # fmt: skip

    def split(params, *arrays):
        return mapped(params, *(array.reshape(count, -1, *array.shape[1:]) for array in arrays))

    return split


def compare(loss, implementation, views, way, count, arrays):
    """Every device's value and gradients against one device's, values also against the oracle.

    One device's are those of the dense implementation, which test_gradients.py holds to the oracle.
    """
    params = parameters()
    images, labels, where = arrays
    expected = one_device(loss, "dense", views)(params, *arrays)
    from_oracle = loss.expect(
        embed_once(images), labels, where=where, views=views, temperature=params["temperature"]
    )
    np.testing.assert_allclose(expected[0], from_oracle, rtol=1e-5)
    computed = many_devices(loss, implementation, views, way, count)(params, *arrays)
    values = np.ravel(computed[0])
    assert np.all(values == values[0])
    each = way in ("pmap", "vmap")
    for device in range(count if each else 1):
        mine = jax.tree.map(lambda x, i=device: np.asarray(x)[i] if each else x, computed)
        chex.assert_trees_all_close(
            jax.tree.map(np.asarray, mine), jax.tree.map(np.asarray, expected),
            rtol=1e-5, atol=1e-6,
        )  # fmt: skip
    return computed


LABELS = {
    8: (0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 1, -5),
    5: (0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, -5),
}


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
def test_eight_devices(loss, implementation):
    compare(loss, implementation, "all", "shard_map", 8, batch(LABELS[8]))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
@pytest.mark.parametrize(
    ("implementation", "way"),
    oracle.chosen(
        [
            ("dense", "vmap"),
            ("streaming_gather", "pmap"),
            ("streaming_ring", "shard_map_unchecked"),
        ],
        oracle.SHARDED,
        ["pmap", "vmap", "shard_map_unchecked"],
    ),
)
def test_other_ways(loss, implementation, way):
    """Every implementation in every way, on four devices, is in test_table.py."""
    compare(loss, implementation, "all", way, 8, batch(LABELS[8]))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
@IMPLEMENTED
def test_cross(loss, implementation):
    compare(loss, implementation, "cross", "shard_map", 8, batch(LABELS[8]))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
@pytest.mark.parametrize(
    ("implementation", "way", "count"),
    oracle.chosen(
        # The ring alone goes another way for an odd, an even and a single device.
        [
            ("dense", "shard_map", 3),
            ("streaming_gather", "pmap", 3),
            ("streaming_ring", "shard_map", 1),
            ("streaming_ring", "shard_map_unchecked", 2),
            ("streaming_ring", "shard_map", 5),
        ],
        oracle.SHARDED,
        ["shard_map", "shard_map_unchecked", "pmap"],
        [1, 2, 3, 5],
    ),
)
def test_other_counts(loss, implementation, way, count):
    """Counts that are no powers of two, on a part of the devices."""
    labels = LABELS[8] if count in (1, 2) else LABELS[5]
    where = np.arange(len(labels)) % 4 != 1
    compare(loss, implementation, "all", way, count, batch(labels, where))


CASES = {
    # Devices have different numbers of valid anchors, so a mean of means would be wrong.
    "uneven padding": (LABELS[8], (1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1)),
    "one device of padding": (LABELS[8], (1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
    "one device of data": (LABELS[8], (0,) * 6 + (1, 1) + (0,) * 8),
    "a class on one device": ((0, 1, 0, 1, 7, 7, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1), None),
    "a class per device": (tuple(i // 2 for i in range(16)), None),
    "one class": ((3,) * 16, None),
    "all different": (tuple(range(16)), None),
}


@FEW
@IMPLEMENTED
@pytest.mark.parametrize("case", CASES)
def test_uneven(loss, implementation, case):
    labels, where = CASES[case]
    compare(loss, implementation, "all", "shard_map", 8, batch(labels, where))


@FEW
@IMPLEMENTED
def test_padding_everywhere(loss, implementation):
    """No anchor on any device: 0 and gradient 0, not a division by nothing."""
    arrays = batch(LABELS[8], np.zeros(16))
    computed = compare(loss, implementation, "all", "shard_map", 8, arrays)
    chex.assert_trees_all_equal(computed, jax.tree.map(jnp.zeros_like, computed))


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("name", "implementation"),
    oracle.chosen(
        [
            ("supcon", "dense"),
            ("attract", "dense"),
            ("attract", "streaming_gather"),
            ("supcon", "streaming_ring"),
        ],
        ["supcon", "attract"],
        oracle.SHARDED,
    ),
)
def test_one_view_with_anchors_on_some_devices(name, implementation):
    """Classes of one: most devices have no anchor that counts."""
    loss = oracle.BY_NAME[name]
    arrays = batch((4, 4, 0, 1, 2, 3, 5, 6, 4, 7, 8, 9, 10, 11, 12, 13))
    arrays = (arrays[0][:, :1], *arrays[1:])
    compare(loss, implementation, "all", "shard_map", 8, arrays)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
@pytest.mark.parametrize(
    ("implementation", "check_vma"),
    oracle.chosen(
        [("dense", True), ("streaming_gather", False), ("streaming_ring", True)],
        oracle.SHARDED,
        [True, False],
    ),
)
def test_several_axes(loss, implementation, check_vma):
    """A batch over both axes of a mesh: axis_name is a tuple."""
    axes = ("replica", "data")
    value = objective(loss, implementation, "all", axes)

    def local(params, *shard):
        result, gradients = jax.value_and_grad(value)(params, *shard)
        return result, lax.pmean(gradients, axes)

    spec, everywhere = PartitionSpec(axes), PartitionSpec()
    mapped = jax.shard_map(
        local, mesh=mesh_of((2, 4), axes), in_specs=(everywhere, spec, spec, spec),
        out_specs=(everywhere, everywhere), check_vma=check_vma,
    )  # fmt: skip
    params, arrays = parameters(), batch(LABELS[8], CASES["uneven padding"][1])
    expected = one_device(loss, "dense", "all")(params, *arrays)
    chex.assert_trees_all_close(jax.jit(mapped)(params, *arrays), expected, rtol=1e-5, atol=1e-6)


@IMPLEMENTED
def test_one_axis_of_several(implementation):
    """axis_name names one axis: each replica has the loss of its own batch."""
    loss = oracle.BY_NAME["spread"]
    value = objective(loss, implementation, "all", "data")
    mapped = jax.shard_map(
        lambda *arguments: value(*arguments)[None],
        mesh=mesh_of((2, 4), ("replica", "data")),
        in_specs=(PartitionSpec(), *[PartitionSpec(("replica", "data"))] * 3),
        out_specs=PartitionSpec("replica"),
    )
    params, arrays = parameters(), batch(LABELS[8])
    computed = jax.jit(mapped)(params, *arrays)
    expected = [
        one_device(loss, "dense", "all")(params, *(x[part] for x in arrays))[0]
        for part in (slice(0, 8), slice(8, 16))
    ]
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
@pytest.mark.parametrize(
    ("implementation", "way"),
    oracle.chosen(
        [
            ("dense", "pmap"),
            ("streaming_gather", "vmap"),
            ("streaming_gather", "shard_map_unchecked"),
            ("streaming_ring", "shard_map"),
        ],
        oracle.SHARDED,
        ["pmap", "vmap", "shard_map", "shard_map_unchecked"],
    ),
)
def test_reduction_none(loss, implementation, way):
    """Each device has the losses of its own anchors, over the candidates of all devices."""
    value = functools.partial(objective(loss, implementation, "all", "data"), reduction="none")
    params, arrays = parameters(), batch(LABELS[8], CASES["uneven padding"][1])
    shards = [array.reshape(8, 2, *array.shape[1:]) for array in arrays]
    axes = {"axis_name": "data", "in_axes": (None, 0, 0, 0)}
    if way == "pmap":
        computed = jax.pmap(value, **axes)(params, *shards)
    elif way == "vmap":
        computed = jax.jit(jax.vmap(value, **axes))(params, *shards)
    else:
        spec = PartitionSpec("data")
        computed = jax.jit(
            jax.shard_map(
                value, mesh=mesh_of((8,), ("data",)), in_specs=(PartitionSpec(), spec, spec, spec),
                out_specs=spec, check_vma=way == "shard_map",
            )
        )(params, *arrays)  # fmt: skip
        chex.assert_shape(computed, (16, NUM_VIEWS))
    images, labels, where = arrays
    expected = loss.expect(
        embed_once(images), labels,
        where=where, temperature=params["temperature"], reduction="none",
    )  # fmt: skip
    computed = np.asarray(computed).reshape(16, NUM_VIEWS)
    np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("implementation", "way"),
    oracle.chosen(
        [("dense", "pmap"), *[(implementation, "shard_map") for implementation in oracle.SHARDED]],
        oracle.SHARDED,
        ["pmap", "shard_map"],
    ),
)
def test_nan_on_one_device_reaches_all(implementation, way):
    loss = oracle.BY_NAME["spread"]
    images, labels, where = batch(LABELS[8])
    images[5, 1, 0] = np.nan
    params = parameters()
    value, gradients = many_devices(loss, implementation, "all", way, 8)(
        params, images, labels, where
    )
    assert np.all(np.isnan(value))
    assert np.all(np.any(np.isnan(np.reshape(gradients["encoder"], (-1, FEATURES, DIM))), (1, 2)))


@pytest.mark.parametrize("loss", [oracle.BY_NAME["joint_attract"]], ids=repr)
@pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
def test_sharded_arrays_without_axis_name(loss, implementation):
    """Under plain jit the compiler splits the work: the value and gradient are the same."""
    params, arrays = parameters(), batch(LABELS[8], CASES["uneven padding"][1])
    call = one_device(loss, implementation, "all")
    expected = call(params, *arrays)
    mesh = mesh_of((8,), ("data",))
    placed = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    computed = call(params, *placed)
    chex.assert_trees_all_close(
        jax.tree.map(np.asarray, computed), jax.tree.map(np.asarray, expected),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("check_vma", [True, False])
def test_reconstruction(check_vma):
    """The same recipe for the autoencoder, with a device that holds padding only."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(16, 3, 2)).astype(np.float32)
    where = np.array(CASES["one device of padding"][1], bool)
    weight = np.float32(0.3)

    def local(weight, images, where):
        def value(weight):
            return losses.reconstruction(images, weight * images, where=where, axis_name="data")

        result, gradient = jax.value_and_grad(value)(weight)
        return result, lax.pmean(gradient, "data")

    spec, everywhere = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        local, mesh=mesh_of((8,), ("data",)), in_specs=(everywhere, spec, spec),
        out_specs=(everywhere, everywhere), check_vma=check_vma,
    )  # fmt: skip
    value, gradient = jax.jit(mapped)(weight, images, where)
    squares = np.mean(images[where].astype(np.float64) ** 2)
    np.testing.assert_allclose(value, oracle.reconstruction(images, 0.3 * images, where), rtol=1e-5)
    np.testing.assert_allclose(gradient, -2 * 0.7 * squares, rtol=1e-5)
