"""Two towers in joint form, and queries against keys and a queue (MoCo), held to float64 loops."""

import functools

import jax
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from thanos_jax import losses

IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
QUERY, KEY = np.moveaxis(oracle.embeddings_like(2, seed=3), 1, 0)
LABELS = oracle.labels_like("random")
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


@pytest.mark.sampled(8)
@IMPLEMENTED
@pytest.mark.parametrize("denominator", ["all", "one_positive"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.3), (0.4, 0.3), (0.4, 1.0), (0.0, 0.0)])
def test_joint_form(implementation, denominator, alpha, beta):
    """(1 - alpha) (beta UniCL + (1 - beta) CLIP) + alpha spreading, value and gradient."""

    def value(image, alpha, beta):
        return losses.cross_modal(
            image, KEY, LABELS, alpha=alpha, beta=beta, denominator=denominator, temperature=0.5,
            implementation=implementation,
        )  # fmt: skip

    def expected(image):
        supervised, spreading = (
            oracle.cross_modal(
                image, KEY, LABELS, alpha=a, denominator=denominator, temperature=0.5
            )
            for a in (0.0, 1.0)
        )
        clip = oracle.cross_modal(image, KEY, temperature=0.5)
        return (1 - alpha) * (beta * supervised + (1 - beta) * clip) + alpha * spreading

    close(jax.jit(lambda query: value(query, alpha, beta))(QUERY), expected(QUERY))
    gradient = jax.jit(jax.grad(value))(QUERY, np.float32(alpha), np.float32(beta))
    close(gradient, oracle.differentiate(expected, QUERY), atol=1e-5)


def test_joint_form_needs_labels():
    with pytest.raises(ValueError, match=r"^beta.*without labels"):
        losses.cross_modal(QUERY, KEY, beta=0.5)


def test_queue_is_in_the_denominator():
    with pytest.raises(ValueError, match=r"^denominator.*memory bank"):
        losses.cross_modal(QUERY, KEY, memory_bank=queue_like(), denominator="one_positive")


def queue_like(filled=True):
    rng = np.random.default_rng(9)
    there = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool) & filled
    return losses.memory_bank.MemoryBank(
        rng.normal(size=(8, 5)).astype(np.float32), np.array([5, 2, 2, 7, 1, 2, 0, 5], np.int32),
        there, np.int32(0),
    )  # fmt: skip


def moco(query, key, labels, bank, *, alpha, beta, temperature, where):
    """He et al., algorithm 1, row by row; with labels, entries of the queue are positives too.

    A query whose key is missing is an anchor of the supervised term alone.
    """
    where = np.broadcast_to(where.reshape(len(query), -1), (len(query), 2))
    z, k = (oracle.normalized(np.asarray(x).astype(np.float64)) for x in (query, key))
    info_nce, supcon, cnce = [], [], []
    for i in np.flatnonzero(where[:, 0]):
        keys = [z[i] @ k[i] / temperature] if where[i, 1] else []
        there = [(z[i] @ v / temperature, y) for v, y in oracle.in_bank(bank, normalize=True)]
        every = np.array([*keys, *(s for s, _ in there)])
        same = np.array([*keys, *(s for s, y in there if labels is not None and y == labels[i])])
        if len(same):
            supcon.append(oracle.lse(every) - np.mean(same))
        if keys:
            info_nce.append(oracle.lse(every) - keys[0])
            cnce.append(oracle.lse(same) - keys[0])
    if labels is None:
        return np.mean(info_nce)
    mixed = beta * np.mean(supcon) + (1 - beta) * np.mean(info_nce)
    return (1 - alpha) * mixed + alpha * np.mean(cnce)


CASES = [(False, 0.0, 1.0), (True, 0.0, 1.0), (True, 0.3, 0.4)]


@pytest.mark.sampled(8)
@IMPLEMENTED
@pytest.mark.parametrize(("labelled", "alpha", "beta"), CASES)
@pytest.mark.parametrize("filled", [True, False])
def test_queue(implementation, labelled, alpha, beta, filled):
    labels, bank, where = LABELS if labelled else None, queue_like(filled), LABELS != 1
    if alpha:
        where = np.stack([where, np.arange(len(QUERY)) % 3 != 0], axis=1)
    options = {"alpha": alpha, "beta": beta, "where": where, "temperature": 0.3}
    call = jax.jit(
        jax.value_and_grad(
            lambda q, k: losses.cross_modal(
                q, k, labels, memory_bank=bank, implementation=implementation, **options
            ),
            argnums=(0, 1),
        )
    )
    value, (by_query, by_key) = call(QUERY, KEY)
    expected = functools.partial(moco, key=KEY, labels=labels, bank=bank, **options)
    close(value, expected(QUERY))
    close(by_query, oracle.differentiate(expected, QUERY), atol=2e-5)
    assert not np.any(by_key)


@pytest.mark.slow
def test_queue_has_no_other_keys():
    """Keys of other rows are no candidates, which they are of `info_nce` with two views."""
    call = functools.partial(losses.cross_modal, QUERY[:1], memory_bank=queue_like())
    alone = call(KEY[:1])
    both = losses.cross_modal(QUERY, KEY, memory_bank=queue_like(), reduction="none")
    assert both.shape == (len(QUERY), 1)
    close(both[0, 0], alone)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs 2 (host) devices")
@IMPLEMENTED
def test_queue_on_devices(implementation):
    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2]
    )
    arrays = QUERY, KEY, LABELS, queue_like()

    @jax.jit
    def call(query, key, labels, bank):
        return losses.cross_modal(
            query, key, labels, memory_bank=bank, beta=0.5, implementation=implementation
        )

    def place(array):
        return jax.device_put(
            array, NamedSharding(mesh, PartitionSpec(*["data"] * min(array.ndim, 1)))
        )

    with jax.set_mesh(mesh):
        computed = call(*jax.tree.map(place, arrays))
    close(computed, call(*arrays))
