"""The queue of a memory bank, and what banks and pushes refuse."""

import collections
import functools
import inspect
import re
import warnings

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from banks import DIM, LABELS, bank_of
from jax import lax

from thanos_jax import losses

MemoryBank = losses.memory_bank.MemoryBank
ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)

MemoryBank = losses.memory_bank.MemoryBank


def contents(bank):
    """What is in the bank, oldest first, each as (first number of the vector, label)."""
    size, position = len(bank.filled), int(bank.position)
    assert 0 <= position < size
    order = [(position + i) % size for i in range(size)]
    return [
        (float(bank.embeddings[i, 0]), int(bank.labels[i])) for i in order if bool(bank.filled[i])
    ]


@functools.cache
def pushing():
    return jax.jit(losses.memory_bank.push)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    size=st.sampled_from([1, 3, 8]),
    pushes=st.lists(
        st.tuples(st.sampled_from([(1, 1), (2, 2), (5, 1), (5, 2)]), st.integers(0, 31)), max_size=6
    ),
)
def test_push_is_a_deque(size, pushes):
    """Batches smaller and larger than the bank, with any padding, against Python's own queue."""
    bank, queue = losses.memory_bank.init(size, 2), collections.deque(maxlen=size)
    number = 0
    for (batch, views), bits in pushes:
        where = np.array([bool(bits >> i & 1) for i in range(batch)])
        new = np.arange(number, number + batch * views, dtype=np.float32).reshape(batch, views)
        number += batch * views
        labels = np.arange(batch, dtype=np.int32) - number
        embeddings = np.stack([new, np.ones_like(new)], axis=-1)
        embeddings[~where] = np.nan
        bank = pushing()(bank, embeddings, labels, where=where)
        for image in np.flatnonzero(where):
            queue.extend((float(value), int(labels[image])) for value in new[image])
        assert contents(bank) == list(queue)
        assert np.all(np.isfinite(bank.embeddings))


def test_push_without_views_or_padding():
    bank = losses.memory_bank.init(4, 2)
    vectors = np.array([[1, 0], [2, 0], [3, 0]], np.float32)
    bank = losses.memory_bank.push(bank, vectors, [5, 6, 7])
    assert contents(bank) == [(1, 5), (2, 6), (3, 7)]
    bank = losses.memory_bank.push(bank, vectors[:, None], np.array([8, 9, 8], np.uint8))
    assert contents(bank) == [(3, 7), (1, 8), (2, 9), (3, 8)]


def test_a_step_of_training():
    """Loss, then push, over and over in one compiled loop; the bank is what its queue says."""
    batches = np.stack([oracle.embeddings_like(2, seed=seed) for seed in (60, 61, 62)])
    loss = oracle.BY_NAME["supcon"]

    def step(bank, embeddings):
        value = losses.supcon(embeddings, LABELS, memory_bank=bank)
        return losses.memory_bank.push(bank, embeddings, LABELS), value

    bank, values = jax.jit(lambda: lax.scan(step, losses.memory_bank.init(16, DIM), batches))()
    before = np.concatenate(batches[:2]).reshape(-1, DIM)[-16:]
    labels = np.tile(np.repeat(LABELS, 2), 2)[-16:]
    remembered = MemoryBank(before, labels, np.ones(16, bool), np.int32(0))
    np.testing.assert_allclose(values[0], loss.expect(batches[0], LABELS), rtol=1e-5)
    expected = loss.expect(batches[2], LABELS, memory_bank=remembered)
    np.testing.assert_allclose(values[2], expected, rtol=1e-5)
    assert len(contents(bank)) == 16


def test_no_gradient_through_push():
    def value(embeddings):
        bank = losses.memory_bank.push(losses.memory_bank.init(4, 2), embeddings, [1, 2])
        return jnp.sum(bank.embeddings)

    assert np.all(jax.jit(jax.grad(value))(np.ones((2, 2), np.float32)) == 0)


def test_donated_bank_is_changed_in_place():
    push = jax.jit(losses.memory_bank.push, donate_argnums=0)
    bank = losses.memory_bank.init(1000, 8)
    arguments = (np.ones((3, 2, 8), np.float32), np.zeros(3, np.int32))
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(bank))
    compiled = push.lower(bank, *arguments).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == kept
    assert compiled.memory_analysis().temp_size_in_bytes < kept / 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # jax warns of donated buffers that it cannot use
        after = push(bank, *arguments)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(bank))
    assert np.sum(after.filled) == 6


def test_init():
    bank = losses.memory_bank.init(3, 2)
    chex.assert_shape([bank.embeddings, bank.labels, bank.filled], [(3, 2), (3,), (3,)])
    assert [leaf.dtype.name for leaf in jax.tree.leaves(bank)] == [
        "float32", "int32", "bool", "int32",
    ]  # fmt: skip
    assert not np.any(bank.filled)
    with jax.enable_x64(True):
        wide = losses.memory_bank.init(3, 2, dtype=jnp.float64)
        assert (wide.embeddings.dtype, wide.labels.dtype) == (jnp.float64, jnp.int64)
    narrow = losses.memory_bank.init(3, 2, dtype="bfloat16", label_dtype=jnp.uint8)
    assert (narrow.embeddings.dtype, narrow.labels.dtype) == (jnp.bfloat16, jnp.uint8)
    assert losses.memory_bank.init(3, 2, label_dtype=None).labels is None


def test_bank_without_labels():
    bank = losses.memory_bank.init(4, DIM, label_dtype=None)
    embeddings = oracle.embeddings_like(2, seed=63)
    bank = jax.jit(losses.memory_bank.push)(bank, embeddings[:2])
    assert bank.labels is None
    value = losses.info_nce(embeddings, memory_bank=bank)
    expected = oracle.BY_NAME["info_nce"].expect(embeddings, None, memory_bank=bank)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


# What is refused.


@ROWS
def test_banks_that_losses_refuse(loss):
    embeddings, bank = oracle.embeddings_like(2, seed=64), bank_of()
    replace = bank._replace
    bad = [
        (losses.memory_bank, TypeError, "MemoryBank.*init.*module"),
        (bank.embeddings, TypeError, r"MemoryBank.*init.*float32\[10, 5\]"),
        (replace(embeddings=np.ones((10, 5), np.int32)), TypeError, r"embeddings.*int32\[10, 5\]"),
        (jax.tree.map(lambda x: np.stack([x, x]), bank), ValueError, r"embeddings.*\[2, 10, 5\]"),
        (replace(filled=bank.filled[:4]), ValueError, r"filled.*\[10\].*bool\[4\]"),
        (replace(filled=bank.labels), ValueError, r"filled.*bool.*int32\[10\]"),
        (replace(position=bank.labels), ValueError, r"position.*int32\[10\]"),
        (replace(labels=bank.labels[:4]), ValueError, r"labels.*\[10\].*int32\[4\]"),
        (replace(labels=bank.filled), TypeError, r"labels.*bool\[10\]"),
        (replace(embeddings=bank.embeddings[:, :4]), ValueError, r"5.*\[10, 4\]"),
    ]
    if loss.labels:
        bad.append((replace(labels=None), TypeError, "with labels.*without"))
    for value, error, words in bad:
        with pytest.raises(error, match=f"^memory_bank.*{words}"):
            loss.call(losses, embeddings, LABELS, memory_bank=value)
    with pytest.raises(ValueError, match=r"^memory_bank.*5.*\[10, 4\]"):  # nor when traced
        jax.jit(lambda bank: loss.call(losses, embeddings, LABELS, memory_bank=bank))(
            replace(embeddings=bank.embeddings[:, :4])
        )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"bank": losses.memory_bank}, TypeError, "^bank.*MemoryBank.*module"),
        ({"embeddings": np.ones((2, 4), np.float32)}, ValueError, r"^bank.*4.*\[10, 5\]"),
        ({"embeddings": np.ones((2, 5), np.int32)}, TypeError, r"^embeddings.*int32\[2, 5\]"),
        ({"embeddings": np.ones(5, np.float32)}, ValueError, r"^embeddings.*\[5\]"),
        ({"labels": np.ones(3, np.int32)}, ValueError, r"^labels.*\[2\].*int32\[3\]"),
        ({"labels": np.ones(2, np.float32)}, TypeError, r"^labels.*float32\[2\]"),
        ({"labels": None}, TypeError, "^labels.*bank has them.*None"),
        ({"labels": np.ones(2, np.uint32)}, TypeError, r"^labels.*int32.*uint32.*label_dtype"),
        ({"labels": np.array([1, 2**40])}, ValueError, r"^labels.*int32.*1099511627776"),
        ({"where": np.ones(3, bool)}, ValueError, r"^where.*\[2\].*bool\[3\]"),
        ({"where": np.ones(2, np.int32)}, TypeError, r"^where.*int32\[2\]"),
    ],
)
def test_pushes_that_are_refused(change, error, words):
    arguments = {
        "bank": bank_of(), "embeddings": np.ones((2, 5), np.float32),
        "labels": np.zeros(2, np.int32), "where": None,
    }  # fmt: skip
    with pytest.raises(error, match=words):
        losses.memory_bank.push(**arguments | change)


def test_labels_for_a_bank_without():
    bank = losses.memory_bank.init(4, DIM, label_dtype=None)
    with pytest.raises(TypeError, match=r"^labels.*None.*int32\[2\]"):
        losses.memory_bank.push(bank, np.ones((2, DIM), np.float32), np.zeros(2, np.int32))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"size": 0}, ValueError, "^size.*positive.*0"),
        ({"dim": -1}, ValueError, "^dim.*positive.*-1"),
        ({"size": 2.5}, TypeError, "^size.*2.5"),
        ({"dim": True}, TypeError, "^dim.*True"),
        ({"dtype": jnp.int32}, TypeError, "^dtype.*int32"),
        ({"label_dtype": jnp.float32}, TypeError, "^label_dtype.*float32"),
        ({"label_dtype": bool}, TypeError, "^label_dtype.*bool"),
    ],
)
def test_banks_that_cannot_be_made(arguments, error, words):
    with pytest.raises(error, match=words):
        losses.memory_bank.init(**{"size": 4, "dim": 2} | arguments)


def test_signatures():
    """Names, order and defaults that callers rely on."""
    parameters = inspect.signature(losses.memory_bank.init).parameters.values()
    assert [(p.name, p.default) for p in parameters if p.kind != p.KEYWORD_ONLY] == [
        ("size", inspect.Parameter.empty), ("dim", inspect.Parameter.empty),
    ]  # fmt: skip
    assert {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY} == {
        "dtype": jnp.float32, "label_dtype": int,
    }  # fmt: skip
    parameters = inspect.signature(losses.memory_bank.push).parameters.values()
    positional = [p.name for p in parameters if p.kind != p.KEYWORD_ONLY]
    assert positional == ["bank", "embeddings", "labels"]
    assert {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY} == {
        "where": None, "axis_name": None,
    }  # fmt: skip
    assert re.search("memory_bank", losses.__doc__)
