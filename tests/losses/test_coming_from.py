"""The losses of other packages, and the same here: the rows of docs/coming_from.md, in float64.

A peer that is not installed is skipped; optax always is. SupContrast and thanos-code are no
packages: their losses stand here as their papers write them, in NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from thanos_jax import losses

RNG = np.random.default_rng(0)
TWO_VIEWS = RNG.normal(size=(6, 2, 5))
ONE_VIEW = RNG.normal(size=(12, 5))
LABELS = np.array([0, 1, 2, 0, 1, 0], np.int32)  # classes of 3, 2 and 1 images
UNEQUAL = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4], np.int32)  # two without a positive
EQUAL = np.repeat(np.arange(4, dtype=np.int32), 3)
close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)


@pytest.fixture(autouse=True)
def float64():
    """Peers promote ranks and dtypes, which other tests of the losses forbid."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def ours(loss, *arrays):
    """Value, and gradients with respect to every array, as NumPy."""
    both = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))
    return jax.tree.map(np.asarray, both(*map(jnp.asarray, arrays)))


def over_pairs(per_anchor, labels):
    """The mean over pairs of one of anchors: each weighs by the number of its positives."""
    positives = np.bincount(labels)[labels] - 1
    return per_anchor[:, 0] @ positives / positives.sum()


def in_torch(loss, *arrays):
    """Value and gradients of a peer's loss of tensors."""
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = loss(*tensors)
    value.backward()
    return value.item(), tuple(tensor.grad.numpy() for tensor in tensors)


def agree(found, expected):
    close(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        close(one, other)


def paired(labels):
    return lambda z: over_pairs(
        losses.supcon(z, labels, temperature=0.2, denominator="one_positive", reduction="none"),
        labels,
    )


def test_optax():
    def theirs(z, labels=UNEQUAL):
        return optax.ntxent(z, jnp.asarray(labels), temperature=0.2)

    mean = functools.partial(losses.supcon, temperature=0.2, denominator="one_positive")

    @jax.jit  # one program: compiling is what this test costs
    def all_of_it(z):
        both = jax.value_and_grad(paired(UNEQUAL))(z), jax.value_and_grad(theirs)(z)
        return *both, mean(z, UNEQUAL), mean(z, EQUAL), theirs(z, EQUAL)

    found, expected, unequal, equal, theirs_equal = all_of_it(ONE_VIEW)
    jax.tree.map(close, found, expected)
    # Over anchors it is another number, unless all classes are of one size.
    assert abs(unequal - expected[0]) > 0.01
    close(equal, theirs_equal)


@pytest.fixture
def pml():
    return pytest.importorskip("pytorch_metric_learning.losses", reason="the peer is not installed")


def tensor(array):
    import torch

    return torch.from_numpy(np.asarray(array, np.int64))


@pytest.mark.slow
def test_pytorch_metric_learning_supcon(pml):
    theirs = pml.SupConLoss(temperature=0.2)
    for labels in (UNEQUAL, EQUAL):
        agree(
            ours(functools.partial(losses.supcon, labels=labels, temperature=0.2), ONE_VIEW),
            in_torch(lambda z, labels=labels: theirs(z, tensor(labels)), ONE_VIEW),
        )
    # Views are rows of their own there, here a dimension.
    rows = np.concatenate([TWO_VIEWS[:, 0], TWO_VIEWS[:, 1]])
    value, (gradient,) = in_torch(lambda z: theirs(z, tensor([*LABELS, *LABELS])), rows)
    agree(
        ours(functools.partial(losses.supcon, labels=LABELS, temperature=0.2), TWO_VIEWS),
        (value, (np.stack([gradient[:6], gradient[6:]], axis=1),)),
    )


@pytest.mark.slow
def test_pytorch_metric_learning_of_one_class(pml):
    """It gives 0 without a negative; SupCon's formula is at least the log of the candidates."""
    same = np.zeros(12, np.int32)
    value, _ = in_torch(lambda z: pml.SupConLoss()(z, tensor(same)), ONE_VIEW)
    assert value == 0.0
    assert losses.supcon(ONE_VIEW, same, temperature=0.1) >= np.log(11)


@pytest.mark.slow
def test_pytorch_metric_learning_ntxent(pml):
    theirs = pml.NTXentLoss(temperature=0.2)
    found = in_torch(lambda z: theirs(z, tensor(UNEQUAL)), ONE_VIEW)
    agree(ours(paired(UNEQUAL), ONE_VIEW), found)
    # One positive for each anchor, the other view: then it is InfoNCE.
    rows = np.concatenate([TWO_VIEWS[:, 0], TWO_VIEWS[:, 1]])
    value, (gradient,) = in_torch(lambda z: theirs(z, tensor([*range(6), *range(6)])), rows)
    agree(
        ours(functools.partial(losses.info_nce, temperature=0.2), TWO_VIEWS),
        (value, (np.stack([gradient[:6], gradient[6:]], axis=1),)),
    )


@pytest.mark.slow
def test_pytorch_metric_learning_cross_batch_memory(pml):
    """Its queue holds the batch too, and only anchors get a gradient."""
    theirs = pml.CrossBatchMemory(pml.SupConLoss(temperature=0.2), embedding_size=5, memory_size=36)
    bank = losses.memory_bank.init(size=36 - 12, dim=5, dtype=jnp.float64)

    def candidates_are_constants(z, bank):
        """SupCon of the batch and the bank, the gradient of the anchors alone."""
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        far = jnp.linalg.norm(bank.embeddings, axis=1, keepdims=True)
        others = jnp.concatenate([z, bank.embeddings / jnp.where(far == 0, 1, far)])
        s = z @ jax.lax.stop_gradient(others).T / 0.2
        there = jnp.concatenate([~jnp.eye(12, dtype=bool), jnp.tile(bank.filled, (12, 1))], axis=1)
        classes = jnp.concatenate([UNEQUAL, bank.labels])
        positive = there & (UNEQUAL[:, None] == classes)
        total = jax.scipy.special.logsumexp(s, axis=1, where=there)
        number = positive.sum(axis=1)
        each = total - (s * positive).sum(axis=1) / jnp.maximum(number, 1)
        return jnp.where(number > 0, each, 0).sum() / (number > 0).sum()

    for step in range(5):
        z = np.random.default_rng(step).normal(size=(12, 5))
        value, (gradient,) = in_torch(lambda z: theirs(z, tensor(UNEQUAL)), z)
        found, (whole,) = ours(
            lambda z, bank=bank: losses.supcon(z, UNEQUAL, temperature=0.2, memory_bank=bank), z
        )
        close(found, value)
        partial = ours(lambda z, bank=bank: candidates_are_constants(z, bank), z)
        agree(partial, (value, (gradient,)))
        assert not np.allclose(whole, gradient, rtol=0.1)
        bank = losses.memory_bank.push(bank, z, UNEQUAL)


@pytest.fixture
def lightly():
    return pytest.importorskip("lightly.loss", reason="the peer is not installed")


@pytest.mark.slow
def test_lightly(lightly):
    value, gradients = in_torch(
        lambda a, b: lightly.NTXentLoss(temperature=0.2)(a, b), TWO_VIEWS[:, 0], TWO_VIEWS[:, 1]
    )
    agree(
        ours(functools.partial(losses.info_nce, temperature=0.2), TWO_VIEWS),
        (value, (np.stack(gradients, axis=1),)),
    )


@pytest.mark.slow
def test_lightly_with_a_memory_bank(lightly):
    """With a bank it is MoCo's loss, which asks for keys without gradient."""
    import torch

    theirs = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(8, 5)).double()
    bank = losses.memory_bank.init(size=8, dim=5, dtype=jnp.float64, label_dtype=None)
    # It is random at first, and of length 1 to float32; here lengths are taken again.
    theirs.memory_bank.bank = torch.nn.functional.normalize(theirs.memory_bank.bank, dim=1)
    bank = losses.memory_bank.push(bank, theirs.memory_bank.bank.numpy())
    keys = TWO_VIEWS[:, 1]
    expected = in_torch(lambda query: theirs(query, torch.from_numpy(keys)), TWO_VIEWS[:, 0])
    loss = functools.partial(losses.cross_modal, temperature=0.2, memory_bank=bank)
    agree(ours(lambda query: loss(query, jnp.asarray(keys)), TWO_VIEWS[:, 0]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_sentence_transformers(symmetric):
    name = "sentence_transformers.sentence_transformer.losses"
    peer = pytest.importorskip(name, reason="the peer is not installed")
    ways = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    theirs = peer.MultipleNegativesRankingLoss(None, scale=20.0, **(ways if symmetric else {}))

    def one_direction(query, document):
        each = losses.cross_modal(query, document, temperature=1 / 20.0, reduction="none")
        return each.mean() if symmetric else each[:, 0].mean()

    both = TWO_VIEWS[:, 0], TWO_VIEWS[:, 1]
    agree(
        ours(one_direction, *both),
        in_torch(lambda a, b: theirs.compute_loss_from_embeddings([a, b], None), *both),
    )


def supcontrast(z, labels, temperature=0.07, base_temperature=0.07, contrast_mode="all"):
    """Equation 2 of Khosla et al. with the factor of their code, for features [batch, views, d].

    z is of length 1. contrast_mode="one" has first views as the only anchors.
    """
    batch, views, _ = z.shape
    rows = [(image, view) for view in range(views) for image in range(batch)]
    each = []
    for image, view in rows if contrast_mode == "all" else rows[:batch]:
        rest = [other for other in rows if other != (image, view)]
        s = np.array([z[image, view] @ z[other] for other in rest]) / temperature
        same = np.array([labels[other] == labels[image] for other, _ in rest])
        each.append(oracle.lse(s) - s[same].mean())
    return temperature / base_temperature * np.mean(each)


def test_supcontrast():
    @jax.jit
    def ours(z):
        shared = {"temperature": 0.1, "reduction": "none"}
        return losses.supcon(z, LABELS, **shared), losses.info_nce(z, **shared)

    z = oracle.normalized(TWO_VIEWS)
    # Without labels every image is a class of its own.
    for each, labels in zip(ours(TWO_VIEWS), (LABELS, np.arange(6)), strict=True):
        for mode, found in (("all", each.mean()), ("one", each[:, 0].mean())):
            expected = supcontrast(z, labels, temperature=0.1, contrast_mode=mode)
            close(0.1 / 0.07 * found, expected)


def thanos_code(z, labels, temperature=0.5, alpha=0.5):
    """The papers' loss as their code arranges it: L_attract and L_repel across views.

    Anchors are second views, candidates first views; cosines in place of what that code divides by
    the norms of other rows, and no similarity clamped.
    """
    each = []
    for image in range(len(z)):
        s = z[:, 0] @ z[image, 1] / temperature
        same = labels == labels[image]
        attract = np.mean([oracle.lse(np.append(s[~same], p)) - p for p in s[same]])
        repel = oracle.lse(s[same]) - s[image]
        each.append((1 - alpha) * attract + alpha * repel)
    return np.mean(each)


def test_thanos_code():
    z = oracle.normalized(TWO_VIEWS)
    loss = functools.partial(losses.spread, alpha=0.3, denominator="one_positive", views="cross")
    each = jax.jit(functools.partial(loss, labels=LABELS, reduction="none"))(TWO_VIEWS)
    close(each[:, 1].mean(), thanos_code(z, LABELS, alpha=0.3))
    close(each[:, 0].mean(), thanos_code(z[:, ::-1], LABELS, alpha=0.3))
