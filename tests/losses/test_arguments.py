"""Arguments in the forms that people have them: variables of frameworks, lists, missing views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

from thanos_jax import losses

IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
EMBEDDINGS, LABELS = oracle.embeddings_like(2, seed=70), oracle.labels_like("random")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
close = functools.partial(np.testing.assert_allclose, **TOLERANCE)


class Wrapped:
    """Not an array, but jax knows how to make one of it."""

    def __init__(self, value):
        self.value = jnp.asarray(value)

    def __jax_array__(self):
        return self.value


@pytest.mark.sampled(4)
@IMPLEMENTED
@pytest.mark.parametrize("kind", [nnx.Param, Wrapped])
@pytest.mark.parametrize(("function", "name"), [("spread", "alpha"), ("joint", "beta")])
def test_scalars_that_are_no_arrays(kind, function, name, implementation):
    def value(numbers, wrapper):
        numbers = [wrapper(number) for number in numbers]
        scalars = dict(zip(("temperature", name), numbers, strict=True))
        call = getattr(losses, function)
        return call(EMBEDDINGS, LABELS, implementation=implementation, **scalars)

    numbers = (jnp.float32(0.3), jnp.float32(0.4))
    both = jax.jit(jax.value_and_grad(value), static_argnums=1)
    jax.tree.map(close, both(numbers, kind), both(numbers, lambda x: x))
    close(value(numbers, kind), value(numbers, lambda x: x))
    with pytest.raises(ValueError, match=r"temperature: expected a positive.*got -1"):
        value((jnp.float32(-1.0), numbers[1]), kind)


def test_nnx_in_and_out():
    """Arrays, a learnt temperature and a bank inside variables, differentiated by nnx."""

    class Head(nnx.Module):
        def __init__(self):
            self.embeddings = nnx.Param(jnp.asarray(EMBEDDINGS))
            self.temperature = nnx.Param(jnp.float32(0.3))
            bank = losses.memory_bank.init(4, EMBEDDINGS.shape[-1])
            self.bank = nnx.Variable(
                losses.memory_bank.push(bank, EMBEDDINGS[:2, 0] + 1.0, LABELS[:2])
            )

    def value(head):
        return losses.supcon(
            head.embeddings, LABELS, temperature=head.temperature, memory_bank=head.bank
        )

    head = Head()
    computed, gradients = nnx.jit(nnx.value_and_grad(value))(head)
    bank = head.bank.get_value()
    expected = functools.partial(oracle.BY_NAME["supcon"].expect, labels=LABELS, memory_bank=bank)
    close(computed, expected(EMBEDDINGS, temperature=0.3))
    by_temperature = oracle.differentiate(lambda t: expected(EMBEDDINGS, temperature=t), 0.3)
    close(gradients["temperature"].get_value(), by_temperature)
    pushed = losses.memory_bank.push(head.bank, EMBEDDINGS[2:4, 0], LABELS[2:4])
    assert np.all(pushed.filled)


@pytest.mark.parametrize("kind", [list, tuple])
def test_views_in_a_list(kind):
    views = kind(np.moveaxis(EMBEDDINGS, 1, 0))
    close(losses.spread(views, LABELS), losses.spread(EMBEDDINGS, LABELS))
    bank = losses.memory_bank.init(20, EMBEDDINGS.shape[-1])
    pushed = losses.memory_bank.push(bank, views, LABELS)
    assert jnp.array_equal(
        pushed.embeddings, losses.memory_bank.push(bank, EMBEDDINGS, LABELS).embeddings
    )


def test_labels_that_are_traced_one_by_one():
    value = jax.jit(lambda *labels: losses.supcon(EMBEDDINGS, list(labels)))
    close(value(*LABELS), losses.supcon(EMBEDDINGS, LABELS))


@pytest.mark.parametrize("zero", [jnp.float32(0.0), np.zeros((), np.float32)])
def test_alpha_of_a_concrete_zero(zero):
    image, text = np.moveaxis(EMBEDDINGS, 1, 0)
    close(losses.cross_modal(image, text, alpha=zero), oracle.cross_modal(image, text))


def test_axis_names_in_a_list():
    call = functools.partial(losses.supcon, axis_name=["data"])
    shards = EMBEDDINGS.reshape(2, 3, 2, -1), LABELS.reshape(2, 3)
    close(
        jax.jit(jax.vmap(call, axis_name="data"))(*shards)[0], oracle.BY_NAME["supcon"].expect(
            EMBEDDINGS, LABELS
        )
    )  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("x64", [False, True])
def test_bank_with_labels_of_64_bits(x64):
    """Made with x64 on, or by NumPy, and met by the labels of a batch of 32 bits."""
    bank = losses.memory_bank.MemoryBank(
        EMBEDDINGS[:4, 0], np.array([2, 0, 1, 2], np.int64), np.ones(4, bool), np.int32(0)
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(jnp.asarray, bank)
    expected = oracle.BY_NAME["supcon"].expect(EMBEDDINGS, LABELS, memory_bank=bank)
    with jax.enable_x64(x64):
        for there in (bank, wide):

            @jax.jit
            def both(bank=there):
                pushed = losses.memory_bank.push(bank, EMBEDDINGS[:1, 0], LABELS[:1])
                return losses.supcon(EMBEDDINGS, LABELS, memory_bank=bank), pushed.labels

            value, labels = both()
            close(value, expected)
            assert int(labels[0]) == LABELS[0]


MISSING = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [0, 1]], bool)


@pytest.mark.sampled(4)
@IMPLEMENTED
@pytest.mark.parametrize("views", ["all", "cross"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_missing_views(implementation, views, reduction):
    """Each term over its own anchors; a mixed loss is the mixture of its parts."""

    def value(name, embeddings):
        return oracle.BY_NAME[name].call(
            losses, embeddings, LABELS, where=MISSING, views=views, reduction=reduction,
            implementation=implementation,
        )  # fmt: skip

    def expected(name, embeddings):
        loss = oracle.BY_NAME[name]
        return loss.expect(embeddings, LABELS, where=MISSING, views=views, reduction=reduction)

    def cnce(embeddings):
        # The oracle has it where an anchor has another view of its own.
        rows = oracle.Loss("cnce", "", with_own_view, counts="own")
        return rows.expect(embeddings, LABELS, where=MISSING, views=views, reduction=reduction)

    def with_own_view(anchor):
        return oracle.class_conditional_info_nce(anchor)

    attract = functools.partial(expected, "attract")
    parts = {
        "supcon": functools.partial(expected, "supcon"),
        "spread_attract": lambda z: 0.7 * attract(z) + 0.3 * cnce(z),
        "joint": lambda z: 0.7 * expected("supcon", z) + 0.3 * expected("info_nce", z),
    }
    for name, part in parts.items():
        close(value(name, EMBEDDINGS), part(EMBEDDINGS))
    if reduction == "mean":
        spoilt = np.where(MISSING[:, :, None], EMBEDDINGS, np.nan)
        gradient = jax.jit(jax.grad(functools.partial(value, "spread_attract")))(spoilt)
        assert not np.any(gradient[~MISSING])
        slope = oracle.differentiate(parts["spread_attract"], EMBEDDINGS)
        np.testing.assert_allclose(gradient, slope, atol=1e-5)


def test_missing_views_elsewhere():
    image, text = np.moveaxis(EMBEDDINGS, 1, 0)
    value = losses.cross_modal(image, text, LABELS, where=MISSING, temperature=0.5)
    expected = oracle.BY_NAME["supcon"].expect(EMBEDDINGS, LABELS, where=MISSING, views="cross")
    close(value, expected)
    bank = losses.memory_bank.init(12, EMBEDDINGS.shape[-1])
    pushed = losses.memory_bank.push(bank, EMBEDDINGS, LABELS, where=MISSING)
    assert jnp.sum(pushed.filled) == MISSING.sum()
    np.testing.assert_array_equal(pushed.embeddings[: MISSING.sum()], EMBEDDINGS[MISSING])


MANY = np.ones((500, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"embeddings": MANY.tolist()}, ["^embeddings", "list of 500", "stack"]),
        ({"embeddings": [MANY, MANY[:7]]}, ["^embeddings", r"float32\[7, 3\]", "where"]),
        ({"embeddings": [MANY[0]] * 500}, ["^embeddings", r"float32\[3\]", "stack"]),
        ({"labels": MANY.tolist()}, ["^labels", r"float64\[500, 3\]"]),
        ({"temperature": MANY.tolist()}, ["^temperature", "list of 500"]),
        ({"temperature": [0.5] * 500}, ["^temperature", "list of 500"]),
        ({"temperature": {"learnt": MANY}}, ["^temperature", "dict"]),
        ({"views": MANY}, ["^views", "'cross'", r"float32\[500, 3\]"]),
        ({"normalize": [MANY]}, ["^normalize", "list of 1"]),
        ({"memory_bank": {"embeddings": MANY}}, ["^memory_bank", "dict"]),
        ({"where": MANY.tolist()}, ["^where", r"float64\[500, 3\]"]),
    ],
)
def test_messages_show_no_arrays(arguments, words):
    given = {"embeddings": MANY, "labels": np.zeros(500, np.int32)} | arguments
    with pytest.raises((TypeError, ValueError)) as caught:
        losses.supcon(**given)
    message = str(caught.value)
    assert len(message) < 300
    for word in words:
        caught.match(word)


def test_messages_of_robust_losses_show_no_arrays():
    with pytest.raises(ValueError, match="sample_weights") as caught:
        losses.robust.weighted_mean(MANY[:, 0], -MANY[:, 0])
    assert len(str(caught.value)) < 150
