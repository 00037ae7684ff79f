"""Every loss against the oracle: labels, views, padding, dtypes, temperatures, special vectors."""

import functools
import warnings

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from thanos_jax import losses

ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)
IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
VIEWS = pytest.mark.parametrize("views", ["all", "cross"])
# 1e-5 and 1e-10 of the value, plus the rounding of the similarities that it is made of.
TOLERANCE = {"float32": (1e-5, 1e-6), "float64": (1e-10, 1e-14)}


@functools.cache
def compiled(loss, implementation, views, normalize=True):
    """Both reductions, in one compilation."""

    def values(embeddings, labels, where, temperature):
        call = functools.partial(
            loss.call,
            losses,
            embeddings,
            labels,
            where=where,
            temperature=temperature,
            views=views,
            normalize=normalize,
            implementation=implementation,
        )
        return {"mean": call(), "none": call(reduction="none")}

    return jax.jit(values)


def check(loss, implementation, embeddings, labels, where, *, temperature=0.5, views="all",
          normalize=True, dtype="float32"):  # fmt: skip
    """Both reductions against the oracle, with dtype and shape of the result."""
    computed = compiled(loss, implementation, views, normalize)(
        embeddings, labels, where, np.asarray(temperature, dtype)
    )
    num_views = 1 if embeddings.ndim == 2 else embeddings.shape[1]
    chex.assert_shape(computed["mean"], ())
    chex.assert_shape(computed["none"], (len(embeddings), num_views))
    assert {value.dtype.name for value in computed.values()} == {dtype}
    expected = {
        reduction: loss.expect(
            embeddings, labels, where=where, temperature=np.asarray(temperature, dtype),
            views=views, normalize=normalize, reduction=reduction,
        )
        for reduction in ("mean", "none")
    }  # fmt: skip
    rtol, per_similarity = TOLERANCE[dtype]
    atol = per_similarity * oracle.largest_similarity(embeddings, temperature, normalize, where)
    chex.assert_trees_all_close(jax.tree.map(np.float64, computed), expected, rtol=rtol, atol=atol)


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
@VIEWS
@pytest.mark.parametrize("labels", oracle.LABELS)
def test_two_views(loss, implementation, views, labels):
    for seed, where in enumerate(oracle.WHERE):
        embeddings = oracle.embeddings_like(2, seed=seed)
        labels_, where_ = oracle.labels_like(labels), oracle.where_like(where)
        check(loss, implementation, embeddings, labels_, where_, views=views)


@pytest.mark.sampled(10)
@ROWS
@IMPLEMENTED
@pytest.mark.parametrize(
    ("views", "num_views"),
    oracle.chosen([("all", 4), ("cross", 3)], ["all", "cross"], [3, 4]),
)
def test_more_views(loss, implementation, views, num_views):
    for labels in ("singletons", "extreme"):
        for where in ("everything", "padded"):
            embeddings = oracle.embeddings_like(num_views, seed=num_views)
            batch = len(embeddings)
            labels_, where_ = oracle.labels_like(labels, batch), oracle.where_like(where, batch)
            check(loss, implementation, embeddings, labels_, where_, views=views)


@pytest.mark.parametrize(
    ("name", "implementation", "num_views"),
    oracle.chosen(
        [("supcon", "dense", None), ("attract", "dense", 1), ("attract", "streaming", None),
         ("supcon", "streaming", 1)],
        ["supcon", "attract"],
        oracle.IMPLEMENTATIONS,
        [None, 1],
    ),
)  # fmt: skip
def test_one_view(name, implementation, num_views):
    """[batch, dim] counts as one view: the result of reduction "none" is [batch, 1] for both."""
    loss = oracle.BY_NAME[name]
    for labels in oracle.LABELS:
        for where in oracle.WHERE:
            embeddings = oracle.embeddings_like(num_views, seed=3)
            labels_, where_ = oracle.labels_like(labels, 12), oracle.where_like(where, 12)
            check(loss, implementation, embeddings, labels_, where_)


@pytest.mark.sampled(10)
@ROWS
@IMPLEMENTED
@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (13, 17)])
def test_sizes(loss, implementation, batch, dim):
    rng = np.random.default_rng(batch)
    embeddings = oracle.embeddings_like(2, batch=batch, dim=dim, seed=batch)
    labels = rng.integers(-2, 3, size=batch).astype(np.int32)
    where = rng.random(batch) < 0.8
    where[0] = True
    check(loss, implementation, embeddings, labels, where)


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
@VIEWS
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0, 10.0])
def test_temperature(loss, implementation, views, temperature):
    """As an array here, as a Python float in test_python_scalars."""
    embeddings, where = oracle.embeddings_like(2, seed=5), oracle.where_like("padded")
    for labels in ("random", "all_different"):
        labels_ = oracle.labels_like(labels)
        check(
            loss, implementation, embeddings, labels_, where, temperature=temperature, views=views
        )


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
@pytest.mark.parametrize("views", ["all", pytest.param("cross", marks=pytest.mark.everything)])
def test_python_scalars(loss, implementation, views):
    """Temperature as a float, an int, a NumPy scalar or a 0-d array, outside jit."""
    embeddings, labels = oracle.embeddings_like(2, seed=6), oracle.labels_like("random")
    expected = loss.expect(embeddings, labels, temperature=2.0, views=views)
    kinds = (2.0, 2, np.float32(2), np.float64(2), jnp.float32(2), jnp.array(2.0))
    # Streaming compiles for each: a number that is known, and an array.
    for temperature in kinds if implementation in oracle.QUICK else (2, jnp.array(2.0)):
        value = loss.call(
            losses, embeddings, labels, temperature=temperature, views=views,
            implementation=implementation,
        )  # fmt: skip
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@ROWS
def test_defaults(loss):
    """Only what a user must give: temperature, alpha and beta are 0.5, views "all", a mean."""
    embeddings, labels = oracle.embeddings_like(2, seed=7), oracle.labels_like("random")
    denominator = {k: v for k, v in loss.options.items() if k == "denominator"}
    arguments = (embeddings, labels) if loss.labels else (embeddings,)
    value = getattr(losses, loss.function)(*arguments, **denominator)
    expected = oracle.contrastive(loss, embeddings, labels, **denominator)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.sampled(6)
@ROWS
@IMPLEMENTED
@VIEWS
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_without_normalization(loss, implementation, views, scale):
    """Scale 4 makes similarities of several hundreds: exp of them would overflow float32."""
    embeddings, labels = scale * oracle.embeddings_like(2, seed=8), oracle.labels_like("random")
    for where in ("everything", "padded"):
        where_ = oracle.where_like(where)
        check(loss, implementation, embeddings, labels, where_, views=views, normalize=False)


@ROWS
@IMPLEMENTED
@VIEWS
def test_special_vectors(loss, implementation, views):
    """Duplicates, antipodes, zero vectors and lengths from 1e-4 to 1e4 in one batch."""
    embeddings = oracle.embeddings_like(2, seed=9)
    embeddings[1] = embeddings[0]
    embeddings[2, 0] = embeddings[2, 1]
    embeddings[3] = -embeddings[0]
    embeddings[4, 1] = 0
    embeddings[5, 0] *= 1e4
    embeddings[5, 1] *= 1e-4
    for labels in ("random", "singletons", "all_different"):
        for where in ("everything", "padded"):
            labels_, where_ = oracle.labels_like(labels), oracle.where_like(where)
            check(loss, implementation, embeddings, labels_, where_, views=views)
    zeros = np.zeros_like(embeddings)
    check(loss, implementation, zeros, oracle.labels_like("random"), where_, views=views)


@pytest.mark.sampled(10)
@ROWS
@IMPLEMENTED
@pytest.mark.parametrize(
    ("views", "normalize"),
    oracle.chosen(
        [("all", True), ("cross", True), ("all", False)], ["all", "cross"], [True, False]
    ),
)
def test_float64(loss, implementation, views, normalize):
    embeddings = oracle.embeddings_like(2, seed=10, dtype=np.float64)
    with jax.enable_x64(True):
        for labels in ("singletons", "extreme"):
            for where in ("everything", "padded"):
                check(
                    loss, implementation, embeddings, oracle.labels_like(labels),
                    oracle.where_like(where), temperature=0.07, views=views, normalize=normalize,
                    dtype="float64",
                )  # fmt: skip


@pytest.mark.sampled(6)
@pytest.mark.parametrize("loss", [oracle.BY_NAME["spread"], oracle.BY_NAME["joint"]], ids=repr)
@IMPLEMENTED
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embeddings_decide_the_dtype(loss, implementation, dtype):
    """Under x64 too: not the scalars, whether from Python, NumPy or jax, of more bits or fewer."""
    embeddings, labels = oracle.embeddings_like(2, seed=10), oracle.labels_like("random")
    embeddings = embeddings.astype(dtype)
    (weight,) = loss.options
    with jax.enable_x64(True):
        kinds = (np.float16, float, np.float32, np.float64, jnp.float32, jnp.float64)
        for kind in kinds if implementation in oracle.QUICK else (float, np.float16, jnp.float64):
            numbers = {weight: kind(0.25), "temperature": kind(0.5)}
            value = loss.call(losses, embeddings, labels, implementation=implementation, **numbers)
            assert value.dtype == dtype, kind
            expected = loss.expect(embeddings, labels, **numbers)
            np.testing.assert_allclose(value, expected, rtol=1e-5 if dtype == "float32" else 1e-10)


@pytest.mark.sampled(10)
@ROWS
@IMPLEMENTED
@pytest.mark.parametrize(
    ("dtype", "normalize"),
    oracle.chosen([("bfloat16", True), ("float16", False)], ["bfloat16", "float16"], [True, False]),
)
def test_half_precision(loss, implementation, dtype, normalize):
    """Sums and result are float32: only the inputs are rounded, and the oracle's are too."""
    embeddings = np.asarray(jnp.asarray(oracle.embeddings_like(2, seed=11), dtype))
    labels, where = oracle.labels_like("singletons"), oracle.where_like("padded")
    check(loss, implementation, embeddings, labels, where, temperature=0.1, normalize=normalize)


@pytest.mark.parametrize("loss", [oracle.BY_NAME["info_nce"], oracle.BY_NAME["supcon"]], ids=repr)
@IMPLEMENTED
def test_float16_squares_do_not_overflow(loss, implementation):
    """300 is a float16, its square is not."""
    embeddings = (300 * oracle.embeddings_like(2, seed=12)).astype(np.float16)
    labels, where = oracle.labels_like("random"), oracle.where_like("everything")
    check(loss, implementation, embeddings, labels, where)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "uint32", "int64"])
def test_label_dtypes(dtype):
    """Any integer dtype, to its very ends; int64 under x64 also beyond 32 bits."""
    ends = np.iinfo(dtype)
    labels = np.array([ends.min, ends.max, ends.max - 1, 0, ends.max, ends.min], dtype=dtype)
    embeddings = oracle.embeddings_like(2, seed=13)
    for name in ("spread", "attract"):
        loss = oracle.BY_NAME[name]
        expected = loss.expect(embeddings, labels)
        with jax.enable_x64(dtype == "int64"):
            computed = loss.call(losses, embeddings, labels, implementation="dense")
        np.testing.assert_allclose(computed, expected, rtol=1e-5)


def test_wide_labels_are_never_merged():
    """Without x64 jax would cut 2**32 to 0: two classes must not silently become one."""
    labels = np.array([0, 2**32, 0, 2**32, 1, 2**33])
    embeddings = oracle.embeddings_like(2, seed=14)
    loss = oracle.BY_NAME["spread"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            computed = loss.call(losses, embeddings, labels)
    except (TypeError, ValueError) as error:
        assert "labels" in str(error)  # noqa: PT017
    else:
        np.testing.assert_allclose(computed, loss.expect(embeddings, labels), rtol=1e-5)


@ROWS
@IMPLEMENTED
@VIEWS
def test_where_is_the_same_as_leaving_out(loss, implementation, views):
    """A padded batch has the value of the batch without the padding, whatever the padding holds."""
    embeddings, labels = oracle.embeddings_like(2, seed=15), oracle.labels_like("random")
    where = oracle.where_like("padded")
    expected = loss.expect(embeddings[where], labels[where], views=views)
    for filler in (0.0, 1e30, np.inf, np.nan):
        padded = np.where(where[:, None, None], embeddings, np.float32(filler))
        computed = compiled(loss, implementation, views)(padded, labels, where, np.float32(0.5))
        np.testing.assert_allclose(computed["mean"], expected, rtol=1e-5)
        assert not np.any(np.asarray(computed["none"])[~where])


@ROWS
@IMPLEMENTED
@VIEWS
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_is_never_hidden(loss, implementation, views, poison):
    """One bad number of an entry that counts makes the loss NaN, wherever it is."""
    labels, where = oracle.labels_like("singletons"), oracle.where_like("everything")
    for image, view in ((0, 0), (3, 1), (5, 0)):
        embeddings = oracle.embeddings_like(2, seed=16)
        embeddings[image, view, 2] = poison
        computed = compiled(loss, implementation, views)(embeddings, labels, where, np.float32(0.5))
        assert np.isnan(computed["mean"]), (image, view)
        assert np.isnan(np.asarray(computed["none"])[image, view]), (image, view)


@pytest.mark.parametrize(
    "way", ["bank", *(pytest.param(x, marks=pytest.mark.slow) for x in ("streaming", "two towers"))]
)
def test_nan_is_never_hidden_in_a_large_batch(way):
    """On CPUs XLA leaves NaN out of the maximum of an array of 4,096 numbers or more."""
    labels = np.arange(64, dtype=np.int32) % 10
    empty = losses.memory_bank.init(size=128, dim=32)

    @jax.jit
    def value(z, kept):
        if way == "two towers":
            return losses.cross_modal(z[:, 0], z[:, 1])
        bank = empty._replace(embeddings=kept.reshape(128, 32), filled=jnp.ones(128, bool))
        shared = {"memory_bank": bank} if way == "bank" else {"implementation": way}
        return losses.supcon(z, labels, **shared)

    good = oracle.embeddings_like(2, batch=64, dim=32, seed=16)
    assert np.isfinite(value(good, good))
    for row in (np.nan, np.where(np.arange(32) == 5, np.nan, 0.0), np.inf):
        bad = good.copy()
        bad[3, 1] = row
        assert np.isnan(value(bad, good)), row
        assert way != "bank" or np.isnan(value(good, bad)), row


@pytest.mark.parametrize("loss", [oracle.BY_NAME["spread"], oracle.BY_NAME["supcon"]], ids=repr)
@IMPLEMENTED
def test_nan_temperature_is_not_hidden(loss, implementation):
    embeddings, labels = oracle.embeddings_like(2, seed=16), oracle.labels_like("random")
    where = oracle.where_like("everything")
    call = jax.jit(compiled(loss, implementation, "all"))
    values = call(embeddings, labels, where, np.float32(np.nan))
    assert np.isnan(values["mean"])


@pytest.mark.parametrize("name", ["supcon", "attract"])
@IMPLEMENTED
def test_no_positive_counts_for_nothing(name, implementation):
    """Anchors without positives are 0 and outside the mean; without any anchor the loss is 0.0."""
    call = compiled(oracle.BY_NAME[name], implementation, "all")
    embeddings, where = oracle.embeddings_like(None, seed=17), oracle.where_like("everything", 12)
    values = call(embeddings, oracle.labels_like("singletons", 12), where, np.float32(0.5))
    per_anchor = np.asarray(values["none"])[:, 0]
    assert np.flatnonzero(per_anchor).tolist() == [0, 1, 4, 7, 8]
    np.testing.assert_allclose(values["mean"], per_anchor.sum() / 5, rtol=1e-6)

    values = call(embeddings, oracle.labels_like("all_different", 12), where, np.float32(0.5))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, values["mean"]), np.float32(0))
    chex.assert_trees_all_equal(np.asarray(values["none"]), np.zeros((12, 1), np.float32))


@IMPLEMENTED
def test_closed_forms(implementation):
    """All entries equal: every lse is the logarithm of a count, every numerator cancels."""
    embeddings = np.ones((6, 2, 5), np.float32)
    labels = np.array([0, 0, 1, 1, 1, 1], np.int32)
    shares = np.array([4, 8]) / 12
    positives, negatives = np.array([3, 7]), np.array([8, 4])
    expected = {
        "info_nce": np.log(11),
        "supcon": np.log(11),
        "attract": shares @ np.log(1 + negatives),
        "cnce": shares @ np.log(positives),
    }
    expected["spread"] = 0.7 * expected["supcon"] + 0.3 * expected["cnce"]
    expected["spread_attract"] = 0.7 * expected["attract"] + 0.3 * expected["cnce"]
    expected["joint"] = 0.7 * expected["supcon"] + 0.3 * expected["info_nce"]
    expected["joint_attract"] = 0.7 * expected["attract"] + 0.3 * expected["info_nce"]
    assert expected.keys() == oracle.BY_NAME.keys()
    for name, loss in oracle.BY_NAME.items():
        value = loss.call(losses, embeddings, labels, implementation=implementation)
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


@VIEWS
@pytest.mark.parametrize("denominator", ["all", "one_positive"])
def test_ends_of_the_weights(views, denominator):
    """At 0 and 1 the composed losses are exactly one of their parts."""
    embeddings, labels = oracle.embeddings_like(2, seed=18), oracle.labels_like("random")
    keywords = {"views": views, "implementation": "dense"}
    parts = {
        "supcon": losses.supcon(embeddings, labels, denominator=denominator, **keywords),
        "cnce": losses.class_conditional_info_nce(embeddings, labels, **keywords),
        "info_nce": losses.info_nce(embeddings, **keywords),
    }
    for weight, spread, joint in ((0, "supcon", "info_nce"), (1, "cnce", "supcon")):
        for number in (weight, float(weight), jnp.float32(weight)):
            both = {"denominator": denominator, **keywords}
            values = (
                losses.spread(embeddings, labels, alpha=number, **both),
                losses.joint(embeddings, labels, beta=number, **both),
            )
            chex.assert_trees_all_close(values, (parts[spread], parts[joint]), rtol=1e-6)


@ROWS
@IMPLEMENTED
def test_under_jit(loss, implementation):
    embeddings, labels = oracle.embeddings_like(2, seed=19), oracle.labels_like("random")
    where, temperature = oracle.where_like("padded"), np.float32(0.2)
    call = jax.jit(compiled(loss, implementation, "all"))
    for reduction, value in call(embeddings, labels, where, temperature).items():
        keywords = {"where": where, "temperature": temperature, "reduction": reduction}
        expected = loss.expect(embeddings, labels, **keywords)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [oracle.BY_NAME[k] for k in ("info_nce", "spread")], ids=repr)
@IMPLEMENTED
def test_under_vmap(loss, implementation):
    """Several batches at once, with their own temperatures."""
    embeddings = np.stack([oracle.embeddings_like(2, seed=seed) for seed in range(3)])
    labels = np.stack([oracle.labels_like(k) for k in ("random", "one_class", "singletons")])
    where = np.stack([oracle.where_like(k) for k in ("everything", "padded", "nothing")])
    temperature = np.array([0.1, 0.5, 2.0], np.float32)
    call = jax.jit(jax.vmap(compiled(loss, implementation, "all")))
    computed = call(embeddings, labels, where, temperature)
    for i in range(3):
        expected = loss.expect(embeddings[i], labels[i], where=where[i], temperature=temperature[i])
        np.testing.assert_allclose(computed["mean"][i], expected, rtol=1e-5)


LABEL = st.one_of(st.integers(0, 2), st.integers(-(2**31), 2**31 - 1))


@ROWS
@IMPLEMENTED
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    labels=st.lists(LABEL, min_size=6, max_size=6),
    where=st.lists(st.booleans(), min_size=6, max_size=6),
    temperature=st.floats(0.05, 10),
    seed=st.integers(0, 1000),
    views=st.sampled_from(["all", "cross"]),
)
def test_anything(loss, implementation, labels, where, temperature, seed, views):
    embeddings = oracle.embeddings_like(2, seed=seed)
    labels, where = np.array(labels, np.int32), np.array(where, bool)
    check(loss, implementation, embeddings, labels, where, temperature=temperature, views=views)


class TestReconstruction:
    """Mean squared error; images of any shape."""

    SHAPES = ((7, 4, 3, 2), (7, 5), (1, 1))

    @pytest.mark.sampled(4)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
    def test_value(self, shape, dtype):
        rng = np.random.default_rng(0)
        with jax.enable_x64(dtype == "float64"):
            x, y = (np.asarray(jnp.asarray(rng.normal(size=shape), dtype)) for _ in range(2))
            value = losses.reconstruction(x, y)
        chex.assert_shape(value, ())
        assert value.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        rtol = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(value, oracle.reconstruction(x, y), rtol=rtol)

    @pytest.mark.parametrize("where", oracle.WHERE)
    def test_where(self, where):
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(2, 6, 4, 4, 3)).astype(np.float32)
        keep = oracle.where_like(where)
        expected = oracle.reconstruction(x, y, keep)
        for filler in (0.0, np.inf, np.nan):
            broken = np.where(keep[:, None, None, None], y, np.float32(filler))
            value, gradient = jax.value_and_grad(losses.reconstruction, argnums=1)(
                x, broken, where=keep
            )
            np.testing.assert_allclose(value, expected, rtol=1e-5)
            each = losses.reconstruction(x, broken, where=keep, reduction="none")
            alone = [oracle.reconstruction(x[i : i + 1], y[i : i + 1]) for i in range(6)]
            np.testing.assert_allclose(each, np.where(keep, alone, 0), rtol=1e-5)
            count = max(keep.sum(), 1) * 48
            slope = np.where(keep[:, None, None, None], 2 * (y - x) / count, 0)
            np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)

    def test_nan_is_not_hidden(self):
        x = np.zeros((3, 2), np.float32)
        y = np.array([[0, 0], [0, np.nan], [0, 0]], np.float32)
        assert np.isnan(losses.reconstruction(x, y))
        assert losses.reconstruction(x, y, where=np.array([True, False, True])) == 0.0
