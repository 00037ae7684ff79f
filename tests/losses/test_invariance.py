"""What the losses cannot see: class-fixing permutations, relabelling, order, scale, rotation."""

import functools

import chex
import jax
import numpy as np
import oracle
import pytest

from thanos_jax import losses

ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)
IMPLEMENTED = pytest.mark.parametrize("implementation", oracle.IMPLEMENTATIONS)
VIEWS = pytest.mark.parametrize("views", ["all", "cross"])
SUPCON = pytest.mark.parametrize(
    "loss", [oracle.BY_NAME[k] for k in ("supcon", "attract")], ids=repr
)
PAIRED = pytest.mark.parametrize("loss", [row for row in oracle.LOSSES if row.own_views], ids=repr)
LABELS = np.array([0, 1, 0, 2, 1, 0, 2, 0], np.int32)
CLASSES = [[0, 2, 5, 7], [1, 4], [3, 6]]  # the images of each
BATCH = len(LABELS)


@functools.cache
def compiled(loss, implementation, views):
    call = functools.partial(loss.call, losses, implementation=implementation, views=views)
    return jax.jit(lambda z, y: {"mean": call(z, y), "none": call(z, y, reduction="none")})


def mean(loss, implementation, views, embeddings):
    return float(compiled(loss, implementation, views)(embeddings, LABELS)["mean"])


def permute_images(embeddings, seed):
    """Whole images, all views together, among the images of their class."""
    rng = np.random.default_rng(seed)
    result = embeddings.copy()
    for members in CLASSES:
        result[members] = embeddings[rng.permutation(members)]
    return result


def permute_within_view(embeddings, seed):
    """View 1 alone, among the images of its class: pairs are broken, view numbers kept."""
    result = embeddings.copy()
    for members in CLASSES:
        shift = 1 + seed % (len(members) - 1)  # a rotation, so that every pair is broken
        result[members, 1] = embeddings[np.roll(members, shift), 1]
    return result


def permute_entries(embeddings, seed):
    """All entries, of every image and view, among the entries of their class."""
    rng = np.random.default_rng(seed)
    result = embeddings.copy()
    for members in CLASSES:
        entries = embeddings[members].reshape(-1, embeddings.shape[-1])
        result[members] = rng.permutation(entries).reshape(result[members].shape)
    return result


@SUPCON
@IMPLEMENTED
@pytest.mark.parametrize("seed", range(3))
def test_supcon_is_blind_to_class_fixing_permutations(loss, implementation, seed):
    """SupCon sees of an entry its embedding and its class only.

    With views="all" the sets A(i), P(i) and N(i) are fixed by the labels of the entries and by
    i itself. A permutation of all entries of a class, across images and views, renames entries
    without changing any of these sets, so the terms of the anchors are permuted alike and their
    mean is unchanged: SupCon cannot tell which augmentation belongs to which image. This holds
    for both denominators and any number of views.
    """
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=20 + seed)
    moved = permute_entries(embeddings, seed)
    before, after = (mean(loss, implementation, "all", z) for z in (embeddings, moved))
    assert after == pytest.approx(before, rel=2e-6)


@SUPCON
@IMPLEMENTED
@pytest.mark.parametrize("seed", range(3))
def test_supcon_cross_is_blind_within_views(loss, implementation, seed):
    """With views="cross" the sets depend on the view number of an entry too.

    So only permutations within a class and within a view leave the value unchanged; moving an
    entry to another view changes which entries it is compared with, and the value.
    """
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=30 + seed)
    before = mean(loss, implementation, "cross", embeddings)
    kept = mean(loss, implementation, "cross", permute_within_view(embeddings, seed))
    assert kept == pytest.approx(before, rel=2e-6)
    changed = mean(loss, implementation, "cross", permute_entries(embeddings, seed))
    assert abs(changed - before) > 1e-3


@pytest.mark.sampled(6)
@PAIRED
@IMPLEMENTED
@VIEWS
@pytest.mark.parametrize("seed", range(3))
def test_paired_losses_see_broken_pairs(loss, implementation, views, seed):
    """Losses with a term -s_{i,a(i)} see which views are of one image, and nothing more of it.

    Whole images may be permuted within their class: every pair (i, a(i)) stays a pair, and A, P
    and N are fixed by labels as before. When the second views alone are permuted among the
    images of a class, lse over A, P and N are still permuted alike, but the mean of s_{i,a(i)}
    is over other pairs, and the value changes. That is how L_cNCE, and with it the spread loss,
    breaks the invariance of SupCon for any alpha > 0; InfoNCE does likewise in the joint loss.
    """
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=40 + seed)
    before = mean(loss, implementation, views, embeddings)
    kept = mean(loss, implementation, views, permute_images(embeddings, seed))
    assert kept == pytest.approx(before, rel=2e-6)
    changed = mean(loss, implementation, views, permute_within_view(embeddings, seed))
    assert abs(changed - before) > 1e-3


@pytest.mark.parametrize("name", ["spread", "spread_attract"])
@IMPLEMENTED
def test_breaking_pairs_changes_only_the_own_view_term(name, implementation):
    """The change of the spread loss is exactly -alpha times the change of the mean s_{i,a(i)}."""
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=50)
    moved = permute_within_view(embeddings, 0)
    loss = oracle.BY_NAME[name]
    before, after = (mean(loss, implementation, "all", z) for z in (embeddings, moved))

    def own_view_similarity(z):
        unit = oracle.normalized(z.astype(np.float64))
        return np.mean(np.sum(unit[:, 0] * unit[:, 1], axis=-1)) / 0.5

    change = -0.3 * (own_view_similarity(moved) - own_view_similarity(embeddings))
    assert after - before == pytest.approx(change, rel=1e-4)


@ROWS
@IMPLEMENTED
def test_order_of_views_of_an_image(loss, implementation):
    """With views="all" the views of an image have no order: each image may swap its own."""
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=60)
    swapped = embeddings.copy()
    swapped[::2] = embeddings[::2, ::-1]
    before, after = (mean(loss, implementation, "all", z) for z in (embeddings, swapped))
    assert after == pytest.approx(before, rel=2e-6)


@ROWS
@IMPLEMENTED
def test_numbers_of_views(loss, implementation):
    """With views="cross" all images must swap together."""
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=61)
    before = mean(loss, implementation, "cross", embeddings)
    together = mean(loss, implementation, "cross", embeddings[:, ::-1])
    assert together == pytest.approx(before, rel=2e-6)
    some = embeddings.copy()
    some[::2] = embeddings[::2, ::-1]
    assert abs(mean(loss, implementation, "cross", some) - before) > 1e-4


@ROWS
@IMPLEMENTED
@VIEWS
def test_order_of_the_batch(loss, implementation, views):
    """Permuting images with their labels permutes the anchors' losses and nothing else."""
    order = np.random.default_rng(0).permutation(BATCH)
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=62)
    call = compiled(loss, implementation, views)
    before, after = call(embeddings, LABELS), call(embeddings[order], LABELS[order])
    chex.assert_trees_all_close(after["mean"], before["mean"], rtol=2e-6)
    chex.assert_trees_all_close(after["none"], before["none"][order], rtol=1e-5)


@ROWS
@IMPLEMENTED
@VIEWS
def test_names_of_classes(loss, implementation, views):
    """Labels are compared, never counted or indexed with."""
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=63)
    call = compiled(loss, implementation, views)
    renamed = np.array([2**31 - 1, -(2**31), -7], np.int32)[LABELS]
    chex.assert_trees_all_close(call(embeddings, renamed), call(embeddings, LABELS), rtol=1e-6)


@ROWS
@IMPLEMENTED
@VIEWS
def test_scale_and_rotation(loss, implementation, views):
    """Each vector's own length does not matter, nor does a rotation of all of them."""
    rng = np.random.default_rng(1)
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=64)
    call = compiled(loss, implementation, views)
    before = call(embeddings, LABELS)
    lengths = (10 ** rng.uniform(-4, 4, size=(BATCH, 2, 1))).astype(np.float32)
    chex.assert_trees_all_close(call(embeddings * lengths, LABELS), before, rtol=1e-5)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float32)
    chex.assert_trees_all_close(call(embeddings @ rotation, LABELS), before, rtol=1e-5, atol=1e-6)


@pytest.mark.sampled(6)
@IMPLEMENTED
@VIEWS
def test_info_nce_sees_no_labels(implementation, views):
    """With all labels different P(i) is a(i): for two views SupCon and L_attract are InfoNCE."""
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=65)
    different = np.arange(BATCH, dtype=np.int32)
    for name in ("supcon", "attract"):
        value = compiled(oracle.BY_NAME[name], implementation, views)(embeddings, different)
        expected = compiled(oracle.BY_NAME["info_nce"], implementation, views)(embeddings, LABELS)
        chex.assert_trees_all_close(value["mean"], expected["mean"], rtol=1e-6)


@IMPLEMENTED
def test_one_class_makes_cnce_info_nce(implementation):
    """With one class P(i) is A(i), so the class-conditional InfoNCE is InfoNCE."""
    embeddings = oracle.embeddings_like(2, batch=BATCH, seed=66)
    same = np.zeros(BATCH, np.int32)
    cnce, info_nce = (
        compiled(oracle.BY_NAME[name], implementation, "all")(embeddings, same)["mean"]
        for name in ("cnce", "info_nce")
    )
    chex.assert_trees_all_close(cnce, info_nce, rtol=1e-6)
