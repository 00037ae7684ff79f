"""Two towers: CLIP's loss and its supervised and spreading forms, against the oracle's own."""

import functools
import inspect
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from thanos_jax import losses

BATCH = 6
# Every form of the loss: whether there are labels, and its options.
FORMS = {
    "clip": (False, {}),
    "supervised": (True, {}),
    "attract": (True, {"denominator": "one_positive"}),
    "spread": (True, {"alpha": 0.3}),
    "spread_attract": (True, {"alpha": 0.3, "denominator": "one_positive"}),
    "apart": (True, {"alpha": 1.0}),
}
ROWS = pytest.mark.parametrize("form", FORMS)
# Streaming compiles for long; by default it is tested on forms that hold every term.
COMBINED = pytest.mark.parametrize(
    ("form", "implementation"),
    [
        (form, implementation)
        for implementation in oracle.IMPLEMENTATIONS
        for form in (FORMS if implementation in oracle.QUICK else ("clip", "spread_attract"))
    ],
)


def towers(seed=0, dtype=np.float32, batch=BATCH):
    """Embeddings of pairs that belong together, roughly."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, 5))
    return image.astype(dtype), (image + rng.normal(size=image.shape)).astype(dtype)


@functools.cache
def compiled(form, implementation, normalize=True):
    labelled, options = FORMS[form]

    def values(image, text, labels, where, temperature):
        call = functools.partial(
            losses.cross_modal, image, text, labels if labelled else None, where=where,
            temperature=temperature, normalize=normalize, implementation=implementation, **options,
        )  # fmt: skip
        return {"mean": call(), "none": call(reduction="none")}

    return jax.jit(values)


def check(form, implementation, image, text, labels, where, *, temperature=0.2, normalize=True,
          dtype="float32"):  # fmt: skip
    temperature = np.asarray(temperature, dtype)
    computed = compiled(form, implementation, normalize)(image, text, labels, where, temperature)
    chex.assert_shape(computed["mean"], ())
    chex.assert_shape(computed["none"], (len(image), 2))
    assert {value.dtype.name for value in computed.values()} == {dtype}
    labelled, options = FORMS[form]
    expected = {
        reduction: oracle.cross_modal(
            image, text, labels if labelled else None, where=where, temperature=temperature,
            normalize=normalize, reduction=reduction, **options,
        )
        for reduction in ("mean", "none")
    }  # fmt: skip
    both = np.stack([np.asarray(image), np.asarray(text)], axis=1)
    largest = oracle.largest_similarity(both, temperature, normalize, where)
    rtol, per_similarity = (1e-5, 1e-6) if dtype == "float32" else (1e-10, 1e-14)
    chex.assert_trees_all_close(
        jax.tree.map(np.float64, computed), expected, rtol=rtol, atol=per_similarity * largest
    )


@COMBINED
@pytest.mark.parametrize("labels", oracle.LABELS)
def test_values(form, implementation, labels):
    labels = oracle.labels_like(labels, BATCH)
    for seed, where in enumerate(oracle.WHERE):
        check(form, implementation, *towers(seed), labels, oracle.where_like(where, BATCH))


@COMBINED
@pytest.mark.parametrize("temperature", [0.01, 0.07, 3.0])
def test_temperatures(form, implementation, temperature):
    labels = oracle.labels_like("random", BATCH)
    arrays = (*towers(9), labels, oracle.where_like("padded", BATCH))
    check(form, implementation, *arrays, temperature=temperature)


@COMBINED
def test_without_normalization(form, implementation):
    arrays = (*towers(10), oracle.labels_like("random", BATCH), np.ones(BATCH, bool))
    check(form, implementation, *arrays, normalize=False, temperature=1.0)


@pytest.mark.sampled(6)
@COMBINED
def test_bfloat16(form, implementation):
    image, text = (jnp.asarray(array, jnp.bfloat16) for array in towers(11))
    arrays = (image, text, oracle.labels_like("random", BATCH), np.ones(BATCH, bool))
    check(form, implementation, *arrays)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_figure_three_of_clip(temperature):
    """Defaults are CLIP's loss, with the temperature that it begins with."""
    image, text = towers(12)
    expected = oracle.clip(image, text, temperature).mean()
    options = {} if temperature == 0.07 else {"temperature": temperature}
    computed = jax.jit(functools.partial(losses.cross_modal, **options))(image, text)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


def test_unicl():
    """Yang et al. sum, over both directions, cross-entropies with targets shared by a class."""
    image, text = towers(13)
    labels = oracle.labels_like("random", BATCH)
    u, v = (oracle.normalized(array.astype(np.float64)) for array in (image, text))
    logits = u @ v.T / 0.3
    same = labels[:, None] == labels[None, :]
    targets = same / same.sum(axis=1, keepdims=True)
    total = 0.0
    for scores in (logits, logits.T):
        softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        total -= np.sum(targets * np.log(softmax))
    computed = losses.cross_modal(image, text, labels, temperature=0.3)
    np.testing.assert_allclose(2 * BATCH * computed, total, rtol=1e-5)


@pytest.mark.parametrize("denominator", ["all", "one_positive"])
def test_no_labels_are_labels_that_all_differ(denominator):
    image, text = towers(14)
    alone = losses.cross_modal(image, text, denominator=denominator)
    apart = losses.cross_modal(image, text, np.arange(BATCH), denominator=denominator)
    np.testing.assert_allclose(alone, apart, rtol=1e-6)


@ROWS
def test_modalities_may_change_places(form):
    labelled, options = FORMS[form]
    labels = oracle.labels_like("random", BATCH) if labelled else None
    image, text = towers(15)
    call = functools.partial(losses.cross_modal, labels=labels, reduction="none", **options)
    np.testing.assert_allclose(call(image, text), call(text, image)[:, ::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.sampled(6)
@COMBINED
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients(form, implementation, dtype):
    """Both towers, CLIP's logarithm of the scale, and alpha."""
    labelled, options = FORMS[form]
    labels = oracle.labels_like("random", BATCH) if labelled else None
    where = oracle.where_like("padded", BATCH)
    image, text = towers(16, np.dtype(dtype))
    numbers = {"log_scale": np.asarray(1.3, dtype)}
    if 0 < options.get("alpha", 0) < 1:  # differences need both sides of it
        numbers["alpha"] = np.asarray(options["alpha"], dtype)

    def value(exp, loss, image, text, log_scale, **numbers):
        keywords = {**options, **numbers, "temperature": exp(-log_scale), "where": where}
        return loss(image, text, labels, **keywords)

    ours = functools.partial(losses.cross_modal, implementation=implementation)
    theirs = functools.partial(value, np.exp, oracle.cross_modal)
    with jax.enable_x64(dtype == "float64"):
        gradient = jax.grad(
            lambda image, text, numbers: value(jnp.exp, ours, image, text, **numbers),
            argnums=(0, 1, 2),
        )
        gradients = jax.jit(gradient)(image, text, numbers)
    expected = (
        oracle.differentiate(lambda x: theirs(x, text, **numbers), image),
        oracle.differentiate(lambda x: theirs(image, x, **numbers), text),
        {
            name: oracle.differentiate(
                lambda x, name=name: theirs(image, text, **{**numbers, name: x}), number
            )
            for name, number in numbers.items()
        },
    )
    relative = 1e-5 if dtype == "float32" else 1e-8
    for have, want in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        assert have.dtype == dtype
        np.testing.assert_allclose(have, want, rtol=0, atol=relative * (np.linalg.norm(want) + 1))
    for tower in gradients[:2]:
        assert np.all(np.asarray(tower)[~where] == 0)


@pytest.mark.sampled(6)
@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (host) devices")
@pytest.mark.parametrize(("form", "implementation", "way"), [
    *[("clip", "dense", way) for way in ("shard_map", "shard_map_unchecked", "pmap")],
    *[("spread_attract", implementation, "shard_map") for implementation in oracle.SHARDED],
])  # fmt: skip
def test_eight_devices(form, implementation, way):
    labelled, options = FORMS[form]
    image, text = towers(17, batch=16)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 1, -5], np.int32)
    where = np.arange(16) % 5 != 1
    params = {"tower": np.eye(5, dtype=np.float32), "log_scale": np.float32(1.0)}

    def value(axis_name, implementation, params, image, text, labels, where):
        return losses.cross_modal(
            image @ params["tower"], text, labels if labelled else None, where=where,
            temperature=jnp.exp(-params["log_scale"]), axis_name=axis_name,
            implementation=implementation, **options,
        )  # fmt: skip

    def local(params, *shard):
        result, gradients = jax.value_and_grad(functools.partial(value, "data", implementation))(
            params, *shard
        )
        return result, lax.pmean(gradients, "data")

    arrays = (image, text, labels, where)
    if way == "pmap":
        mapped = jax.pmap(local, axis_name="data", in_axes=(None, 0, 0, 0, 0), out_axes=None)
        arrays = [array.reshape(8, 2, *array.shape[1:]) for array in arrays]
    else:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        specs = (PartitionSpec(), *[PartitionSpec("data")] * 4)
        mapped = jax.jit(
            jax.shard_map(
                local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(),
                check_vma=way == "shard_map",
            )
        )  # fmt: skip
    alone = jax.jit(jax.value_and_grad(functools.partial(value, None, "dense")))
    expected = alone(params, image, text, labels, where)
    computed = mapped(params, *arrays)
    to_numpy = functools.partial(jax.tree.map, np.asarray)
    chex.assert_trees_all_close(to_numpy(computed), to_numpy(expected), rtol=1e-5, atol=1e-6)
    from_oracle = oracle.cross_modal(
        image, text, labels if labelled else None, where=where, temperature=np.exp(-1.0), **options
    )
    np.testing.assert_allclose(expected[0], from_oracle, rtol=1e-5)


def test_signature():
    """Names, order and defaults that callers rely on."""
    parameters = inspect.signature(losses.cross_modal).parameters
    positional = [p.name for p in parameters.values() if p.kind != p.KEYWORD_ONLY]
    assert positional == ["image", "text", "labels"]
    assert {p.name: p.default for p in parameters.values() if p.kind == p.KEYWORD_ONLY} == {
        "alpha": 0.0, "beta": 1.0, "temperature": 0.07, "denominator": "all", "where": None,
        "normalize": True, "memory_bank": None, "axis_name": None, "implementation": "auto",
        "reduction": "mean",
    }  # fmt: skip
    assert parameters["labels"].default is None


def refused(*words, image=None, text=None, labels=None, **keywords):
    """The call raises, also under jit, and the message has all words."""
    whole = dict(zip(("image", "text"), towers(), strict=True))
    image = whole["image"] if image is None else image
    text = whole["text"] if text is None else text
    call = functools.partial(losses.cross_modal, image, text, labels, **keywords)
    for attempt in (call, jax.jit(call)):
        with pytest.raises((ValueError, TypeError)) as caught:
            attempt()
        for word in words:
            assert re.search(word, str(caught.value)), (word, str(caught.value))


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_refused_towers():
    """A message names both towers and what they are."""
    refused("image", "text", r"\[6, 5\]", r"\[7, 5\]", text=ones(7, 5))
    refused("image", "text", r"\[6, 5\]", r"\[6, 4\]", text=ones(6, 4))
    refused("image", "text", "bfloat16", "float32", text=ones(6, 5, dtype=jnp.bfloat16))
    refused("image", "float16", "float32", image=ones(6, 5, dtype=np.float16))
    for name in ("image", "text"):
        refused(f"^{name}", r"\[6, 1, 5\]", **{name: ones(6, 1, 5)})
        refused(f"^{name}", r"\[5\]", **{name: ones(5)})
        refused(f"^{name}", "int32", **{name: ones(6, 5, dtype=np.int32)})
        refused(f"^{name}", "uint8", **{name: ones(6, 5, dtype=np.uint8)})
        refused(f"^{name}", r"\[0, 5\]", **{name: ones(0, 5)})
        refused(f"^{name}", "list", **{name: [[1.0]]})


def test_refused_arguments():
    labels = oracle.labels_like("random", BATCH)
    refused("labels", r"[\[(]7", labels=ones(7, dtype=np.int32))
    refused("labels", "float32", labels=ones(6))
    refused("where", r"[\[(]7", where=ones(7, dtype=bool))
    refused("alpha", "without labels", "0.5", alpha=0.5)
    refused("alpha", r"\[0, 1\]", "1.5", alpha=1.5, labels=labels)
    refused("alpha", "2", alpha=ones(2), labels=labels)
    refused("temperature", "0", temperature=0.0)
    refused("denominator", "some", "one_positive", denominator="some")
    refused("reduction", "sum", "none", reduction="sum")
    refused("implementation", "fast", "dense", implementation="fast")
    with pytest.raises(TypeError, match="views"):
        losses.cross_modal(*towers(), views="all")


def test_traced_alpha_needs_labels():
    """Its value is not known, but that it was asked for is."""
    with pytest.raises(ValueError, match=r"alpha.*without labels"):
        jax.jit(lambda alpha: losses.cross_modal(*towers(), alpha=alpha))(0.5)
