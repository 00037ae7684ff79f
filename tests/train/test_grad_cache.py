"""Gradient caching is exact: held to differentiation through all chunks at once."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from thanos_jax import losses
from thanos_jax.train import grad_cache

ROWS, FEATURES, WIDTH, DIM = 12, 5, 7, 3


def _parameters():
    rng = np.random.default_rng(0)
    shapes = {"in": (FEATURES, WIDTH), "bias": (WIDTH,), "out": (WIDTH, DIM), "head": (WIDTH, 4)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return jax.tree.map(jnp.asarray, {**params, "unused": rng.normal(size=2)})


def _batch(rows=ROWS):
    rng = np.random.default_rng(1)
    return {
        "image": jnp.asarray(rng.normal(size=(rows, FEATURES))),
        "label": jnp.asarray(rng.integers(0, 3, rows), jnp.int32),
    }


def _chunks(batch, size):
    chunks = grad_cache.split(batch, size)
    keys = jax.random.split(jax.random.key(2), len(batch["label"]) // size)
    return {**chunks, "key": keys}


def _encode(params, chunk):
    """Dropout, a loss of each row by itself, and two groups of embeddings in different shapes."""
    hidden = jnp.tanh(chunk["image"] @ params["in"] + params["bias"])
    keep = jax.random.bernoulli(chunk["key"], 0.7, hidden.shape)
    hidden = jnp.where(keep, hidden / 0.7, 0.0)
    log_probability = jax.nn.log_softmax(hidden @ params["head"])
    own = -jnp.mean(jnp.take_along_axis(log_probability, chunk["label"][:, None], axis=1))
    embeddings = {"pair": hidden @ params["out"], "norm": jnp.sum(hidden**2, axis=1)}
    return embeddings, own, {"own": own, "labels": chunk["label"]}


def _loss(labels):
    def loss(embeddings):
        z = grad_cache.merge(embeddings)
        pairs = losses.supcon(z["pair"], labels, temperature=0.3)
        # Not a sum over rows either: each row's part depends on all the others.
        return pairs + jnp.log(jnp.sum(jnp.exp(z["norm"]))), {"pairs": pairs}

    return loss


def _at_once(encode, loss):
    """The same chunks with the same keys, in a Python loop, differentiated as one function."""

    def value(params, chunks):
        count = len(chunks["label"])
        parts = [encode(params, jax.tree.map(lambda x, i=i: x[i], chunks)) for i in range(count)]
        own = sum(part[1] for part in parts) / count
        if loss is None:
            return own
        return loss(jax.tree.map(lambda *x: jnp.stack(x), *[part[0] for part in parts]))[0] + own

    return jax.jit(jax.value_and_grad(value))


def _largest_error(computed, expected):
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    errors = jax.tree.map(lambda x, y: np.abs(x - y).max(), computed, expected)
    return max(jax.tree.leaves(errors)) / largest


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("size", "x64"), [(3, True), (6, False), (12, False)])
@pytest.mark.parametrize("joint", [True, False])
def test_the_gradient_is_that_of_all_chunks_at_once(size, x64, joint):
    with jax.enable_x64(x64):
        params, batch = _parameters(), _batch()
        chunks = _chunks(batch, size)
        loss = _loss(batch["label"]) if joint else None
        expected_value, expected = _at_once(_encode, loss)(params, chunks)
        function = jax.jit(grad_cache.value_and_grad(_encode, loss))
        (value, (beside, extras)), gradient = function(params, chunks)
        tolerance = 1e-13 if x64 else 1e-6
        np.testing.assert_allclose(value, expected_value, rtol=tolerance)
        assert _largest_error(gradient, expected) < tolerance
        assert not np.any(gradient["unused"])
        assert jax.tree.map(lambda x: (x.shape, x.dtype), gradient) == jax.tree.map(
            lambda x: (x.shape, x.dtype), params
        )
        # What encode returns on the side arrives chunk by chunk, as it was.
        np.testing.assert_array_equal(extras["labels"], chunks["label"])
        assert extras["own"].shape == (ROWS // size,)
        if joint:
            rest = value - extras["own"].mean() - beside["pairs"]
            assert rest > 0
        else:
            assert beside is None
            np.testing.assert_allclose(extras["own"].mean(), value, rtol=1e-6)


def test_splitting_the_loss_over_chunks_would_be_another_gradient():
    """What the exactness above is worth: plain accumulation of the pairwise loss is far off."""
    params, batch = _parameters(), _batch()
    chunks = _chunks(batch, 4)
    _, expected = _at_once(_encode, _loss(batch["label"]))(params, chunks)

    def accumulated(params, chunk):
        embeddings, own, extra = _encode(params, chunk)
        alone, _ = _loss(chunk["label"])(jax.tree.map(lambda x: x[None], embeddings))
        return (), own + alone, extra

    _, gradient = jax.jit(grad_cache.value_and_grad(accumulated, None))(params, chunks)
    assert _largest_error(gradient, expected) > 0.1


def _scans(function, *arguments):
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]


def test_without_a_joint_loss_each_chunk_is_encoded_once():
    params, batch = _parameters(), _batch()
    chunks = _chunks(batch, 4)
    for loss, scans in ((_loss(batch["label"]), 2), (None, 1)):
        assert len(_scans(grad_cache.value_and_grad(_encode, loss), params, chunks)) == scans


def test_the_first_run_computes_the_embeddings_and_nothing_else():
    calls = {"embedding": 0, "own": 0}

    def counted(name, x):
        def one(x):
            calls[name] += 1
            return np.ones((), x.dtype)

        # A factor, which the derivative needs as much as the value.
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return x * jax.pure_callback(one, shape, lax.stop_gradient(x))

    def encode(params, chunk):
        embeddings, own, _ = _encode(params, chunk)
        embeddings["norm"] = counted("embedding", embeddings["norm"])
        return embeddings, counted("own", own), None

    params, batch = _parameters(), _batch()
    function = jax.jit(grad_cache.value_and_grad(encode, _loss(batch["label"])))
    jax.block_until_ready(function(params, _chunks(batch, 4)))
    assert calls == {"embedding": 6, "own": 3}


def test_the_program_does_not_grow_with_the_number_of_chunks():
    lengths = set()
    for rows in (8, 64):
        params, batch = _parameters(), _batch(rows)
        function = grad_cache.value_and_grad(_encode, _loss(batch["label"]))
        text = jax.jit(function).lower(params, _chunks(batch, 4)).as_text()
        lengths.add(len(text.splitlines()))
    assert len(lengths) == 1


def test_gradients_of_many_chunks_add_up_in_float32():
    """1024 gradients of 1 / 1024: a sum in bfloat16 would stop growing at 1 / 4."""
    params = jnp.ones((), jnp.bfloat16)
    encode = lambda w, x: ((), (w * x).sum(), None)  # noqa: E731
    function = jax.jit(grad_cache.value_and_grad(encode, None))
    (value, _), gradient = function(params, jnp.ones((1024, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient) == 1.0
    assert value.dtype == jnp.float32
    assert float(value) == 1.0


def test_split_spreads_consecutive_rows_over_all_chunks_and_merge_undoes_it():
    keys = jax.random.split(jax.random.key(0), 12)
    batch = {"a": jnp.arange(12), "b": jnp.arange(24).reshape(12, 2), "k": keys}
    chunks = grad_cache.split(batch, 4)
    np.testing.assert_array_equal(chunks["a"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    assert chunks["b"].shape == (3, 4, 2)
    merged = grad_cache.merge(chunks)
    for name in ("a", "b"):
        np.testing.assert_array_equal(merged[name], batch[name])
    assert jnp.all(merged["k"] == batch["k"])


@pytest.mark.parametrize("size", [0, -4, 5, 24])
def test_a_chunk_that_does_not_divide_the_batch_is_refused(size):
    with pytest.raises(ValueError, match=f"size: expected a divisor of .* 12 rows, got {size}"):
        grad_cache.split({"a": jnp.zeros(12)}, size)


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"batch: expected .*same number of rows.*\[12\].*\[11\]"):
        grad_cache.split({"a": jnp.zeros(12), "b": jnp.zeros(11)}, 4)
    function = grad_cache.value_and_grad(lambda w, x: (x, 0.0, None), None)
    with pytest.raises(ValueError, match=r"chunks: expected .*\[3, 4\].*\[2, 4\]"):
        function(1.0, (jnp.zeros((3, 4)), jnp.zeros((2, 4))))
    with pytest.raises(ValueError, match="chunks: expected"):
        function(1.0, {})
    with pytest.raises(ValueError, match=r"encode: expected a scalar.*\[4\]"):
        grad_cache.value_and_grad(lambda w, x: ((), w * x, None), None)(1.0, jnp.zeros((3, 4)))


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")
@pytest.mark.parametrize("way", ["pmap", "shard_map", "shard_map_unchecked"])
def test_inside_mapped_code_by_the_recipe_of_the_losses(way):
    """Each device has chunks of its own rows; the loss is global; gradients are averaged."""
    params, batch = _parameters(), _batch(8 * 6)

    def local(params, batch):
        chunks = grad_cache.split(batch, 2)

        def encode(params, chunk):
            # No dropout: each device would have keys of its own.
            hidden = jnp.tanh(chunk["image"] @ params["in"] + params["bias"])
            own = lax.pmean(jnp.mean((hidden @ params["head"]) ** 2), "data")
            return hidden @ params["out"], own, None

        def loss(embeddings):
            z = grad_cache.merge(embeddings)
            return losses.supcon(z, batch["label"], temperature=0.3, axis_name="data"), None

        (value, _), gradient = grad_cache.value_and_grad(encode, loss)(params, chunks)
        return value, lax.pmean(gradient, "data")

    def whole(params):
        hidden = jnp.tanh(batch["image"] @ params["in"] + params["bias"])
        pairs = losses.supcon(hidden @ params["out"], batch["label"], temperature=0.3)
        return pairs + jnp.mean((hidden @ params["head"]) ** 2)

    expected_value, expected = jax.jit(jax.value_and_grad(whole))(params)
    if way == "pmap":
        shards = jax.tree.map(lambda x: x.reshape(8, 6, *x.shape[1:]), batch)
        found = jax.pmap(local, axis_name="data", in_axes=(None, 0))(params, shards)
        value, gradient = jax.tree.map(lambda x: x[3], found)
    else:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=way == "shard_map"
        )
        value, gradient = jax.jit(mapped)(params, batch)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    assert _largest_error(gradient, expected) < 1e-6


def test_example_in_the_docstring():
    found = doctest.testmod(grad_cache)
    assert found.attempted
    assert not found.failed
