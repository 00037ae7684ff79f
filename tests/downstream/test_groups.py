"""Recovery of hidden groups: what is found in made-up embeddings, and what is refused."""

import sys
import types

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from thanos_jax.downstream.groups import (
    RULES,
    Clustering,
    ErrorRule,
    SilhouetteRule,
    assign,
    recover,
    recovery_scores,
)
from thanos_jax.downstream.groups import error as error_rule
from thanos_jax.errors import MissingDependencyError, UserError


def blobs(counts, centres, *, deviation=0.1, seed=0):
    """Returns points around centres, and which centre each is of."""
    group = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).normal(size=(len(group), len(centres[0])))
    return (np.array(centres, float)[group] + deviation * noise), group


def two_classes(seed=0):
    """Class 7 has three clusters, class 3 two, all far apart on the sphere."""
    centres = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    points, group = blobs([60, 50, 40, 60, 40], centres, seed=seed)
    return points, np.where(group < 3, 7, 3), group


def background(n, *, shift=0.5, seed=0):
    """Classes of five strata far apart, and a rare background near to what the other class has."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(99).normal(size=(16, 16)))[0]
    labels = np.arange(n) % 2
    stratum = generator.integers(0, 5, n)
    scene = np.where(generator.random(n) < 0.08, 1 - labels, labels)
    points = axes[2 * stratum + labels] + (scene - 0.5)[:, None] * shift * axes[-1]
    return points + 0.05 * generator.normal(size=points.shape), labels, scene


# The clusters themselves, no piece of which becomes a group.
CLUSTERS = SilhouetteRule(overcluster=1)


def same_partition(first, second):
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_clusters_are_found_and_assigned(method):
    points, labels, group = two_classes()
    others, other_labels, other_group = two_classes(seed=1)
    found = recover(
        points, labels, others, other_labels, rule=CLUSTERS, clustering=Clustering(method)
    )
    assert found.clusters == {3: 2, 7: 3}
    assert found.classes.tolist() == [3, 3, 7, 7, 7]
    assert same_partition(found.groups, group)
    np.testing.assert_array_equal(found.classes[found.groups], labels)
    np.testing.assert_array_equal(found.groups, assign(found, points, labels))
    np.testing.assert_array_equal(found.validation_groups, assign(found, others, other_labels))
    # Validation examples have the numbers of the training examples of the same true group.
    number = dict(zip(group, found.groups, strict=True))
    assert [number[one] for one in other_group] == found.validation_groups.tolist()
    assert found.losses.size == 0


def test_silhouette_is_the_mean_over_clusters():
    points, labels, _ = two_classes()
    found = recover(points, labels, rule=CLUSTERS)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    for name in (3, 7):
        mine, groups = unit[labels == name], found.groups[labels == name]
        distances = np.linalg.norm(mine[:, None] - mine[None], axis=-1)
        means = []
        for group in set(groups):
            values = []
            for i in np.flatnonzero(groups == group):
                inside = distances[i][groups == group].sum() / (np.sum(groups == group) - 1)
                outside = min(
                    distances[i][groups == other].mean() for other in set(groups) - {group}
                )
                values.append((outside - inside) / max(inside, outside))
            means.append(np.mean(values))
        assert found.silhouettes[name] == pytest.approx(np.mean(means), rel=1e-5)


def test_mean_over_clusters_chooses_otherwise_than_mean_over_examples():
    # Two dense clusters, and a third of few examples that a mean over examples hardly hears of.
    points, _ = blobs([300, 300, 10], [[0, 0], [1, 0], [0.5, 0.9]], deviation=0.17)
    labels = np.zeros(len(points), int)
    chosen, raw = {}, Clustering(normalize=False)
    for k in (2, 3, 4):
        found = recover(points, labels, rule=SilhouetteRule(k, 1), clustering=raw)
        chosen[k] = found.silhouettes[0], silhouette_score(points, found.groups)
    searched = recover(points, labels, rule=CLUSTERS, clustering=raw._replace(max_clusters=4))
    best = max(chosen, key=lambda k: chosen[k][0])
    assert searched.clusters == {0: best}
    assert searched.silhouettes[0] == chosen[best][0]


def test_normalization_is_an_option():
    # One direction, two lengths; another direction.
    points, group = blobs([30, 30, 30], [[1, 0], [9, 0], [0, 5]], deviation=0.05)
    labels = np.zeros(len(points), int)
    assert recover(points, labels, rule=CLUSTERS).clusters == {0: 2}
    found = recover(points, labels, rule=CLUSTERS, clustering=Clustering(normalize=False))
    assert same_partition(found.groups, group)
    np.testing.assert_array_equal(assign(found, points, labels), found.groups)


def overclustered(*, loss=1.0, rare=60, validation_rare=60):
    """Two clusters, one with a rare satellite whose loss is `loss`; that of others is 1/2."""
    centres = [[0, 0], [1.5, 0], [0, 4]]
    points, group = blobs([400, rare, 400], centres, deviation=0.15)
    others, _ = blobs([100, validation_rare, 100], centres, deviation=0.15, seed=1)
    found = recover(
        points,
        np.zeros(len(points), int),
        others,
        np.zeros(len(others), int),
        losses=np.where(group == 1, loss, 0.5),
        rule=SilhouetteRule(clusters=2, overcluster=2),
        clustering=Clustering(normalize=False),
    )
    return found, group


def test_piece_of_higher_loss_is_kept():
    found, group = overclustered()
    satellite = found.groups[group == 1]
    assert len(set(satellite)) == 1
    assert same_partition(found.groups == satellite[0], group == 1)
    # The other cluster's halves are no better apart than the cluster was, and stay one.
    assert len(set(found.groups[group == 2])) == 1
    assert found.clusters == {0: 3}


@pytest.mark.parametrize("edit", [{"loss": 0.4}, {"rare": 24}, {"validation_rare": 24}])
def test_piece_of_low_loss_or_few_examples_is_not_kept(edit):
    found, group = overclustered(**edit)
    assert same_partition(found.groups, group == 2)


def test_piece_of_exactly_the_least_size_is_kept():
    found, _ = overclustered(rare=25, validation_rare=25)
    assert found.clusters == {0: 3}


@pytest.mark.parametrize("with_validation", [True, False])
def test_error_finds_a_small_direction_that_clusters_do_not(with_validation):
    points, labels, scene = background(1200)
    others, other_labels, other_scene = background(800, seed=1)
    split = (others, other_labels) if with_validation else ()
    given = {"rule": ErrorRule(), "clustering": Clustering(max_clusters=6)}
    found = recover(points, labels, *split, **given)
    # The rare background is one group, with a few hard examples of the common one, which may be
    # several, of unequal ease.
    scores = recovery_scores(scene, found.groups, labels)
    assert scores["rarest_recall"] > 0.95
    assert scores["rarest_precision"] > 0.7
    assert scores["f1_many_to_one"] > 0.95
    assert scores["f1"] > 0.85
    held_out = assign(found, others, other_labels)
    scores = recovery_scores(other_scene, held_out, other_labels)
    assert scores["f1_many_to_one"] > 0.95
    assert scores["rarest_recall"] > 0.95
    coarse = recover(points, labels, *split, **given | {"rule": ErrorRule(cells=20)})
    assert coarse.clusters == {0: 2, 1: 2}
    assert recovery_scores(scene, coarse.groups, labels)["f1"] > 0.95
    if with_validation:
        np.testing.assert_array_equal(held_out, found.validation_groups)
        again = recover(points, labels, *split, **given)
        np.testing.assert_array_equal(again.groups, found.groups)
        np.testing.assert_array_equal(again.losses, found.losses)
    # The strata are what silhouettes see.
    plain = recover(points, labels, **given | {"rule": CLUSTERS})
    assert plain.clusters == {0: 5, 1: 5}
    assert recovery_scores(scene, plain.groups, labels)["f1"] < 0.4


def test_error_leaves_whole_what_does_not_differ():
    points, labels, _ = background(1000, shift=0.0)
    losses = np.random.default_rng(3).exponential(size=len(points))
    given = {"rule": ErrorRule(), "clustering": Clustering(max_clusters=5), "losses": losses}
    found = recover(points, labels, **given)
    assert found.clusters == {0: 1, 1: 1}
    assert np.isnan(found.silhouettes[0])
    constant = recover(points, labels, **given | {"losses": 0 * losses})
    assert constant.clusters == {0: 1, 1: 1}
    forced = recover(points, labels, **given | {"rule": ErrorRule(clusters=3)})
    assert forced.clusters == {0: 3, 1: 3}


def test_error_judges_by_either_split():
    # Training has been learnt by heart; only validation tells the rare group from the others.
    centres = [[0, 0], [1, 0], [0, 1]]
    points, group = blobs([100, 100, 30], centres, deviation=0.05)
    others, other_group = blobs([100, 100, 30], centres, deviation=0.05, seed=1)
    labels = np.zeros(len(points), int)
    given = {"losses": np.full(len(points), 1e-9), "rule": ErrorRule()}
    given["clustering"] = Clustering(normalize=False)
    losses = np.where(other_group == 2, 2.0, 0.1)
    alone = recover(points, labels, others, labels, **given)
    assert alone.clusters == {0: 1}
    found = recover(points, labels, others, labels, validation_losses=losses, **given)
    assert same_partition(found.groups, group == 2)
    swapped = given | {"losses": losses}
    found = recover(points, labels, others, labels, validation_losses=given["losses"], **swapped)
    assert same_partition(found.groups, group == 2)
    wide = recover(
        points,
        labels,
        rule=ErrorRule(gap=50.0),
        losses=losses + 0.3 * np.arange(len(points)) % 1,
    )
    assert wide.clusters == {0: 1}


def test_error_merges_what_is_too_small():
    points, group = blobs([100, 24, 100], [[0, 0], [1, 0], [0, 1]], deviation=0.05)
    losses = np.array([0.1, 2.0, 1.0])[group]
    labels = np.zeros(len(points), int)
    raw = Clustering(normalize=False)
    found = recover(points, labels, rule=ErrorRule(), losses=losses, clustering=raw)
    assert same_partition(found.groups, np.minimum(group, 1))


def test_cross_fitted_losses_do_not_know_the_example():
    # Labels drawn at random: a classifier that had seen them would do better than chance.
    generator = np.random.default_rng(0)
    points, labels = generator.normal(size=(80, 40)), generator.integers(0, 2, 80)
    two = Clustering(max_clusters=2)
    assert recover(points, labels, clustering=two).losses.mean() > np.log(2)
    points, labels, _ = two_classes()
    assert recover(points, labels, clustering=two).losses.mean() < 0.1


def test_silhouettes_of_a_sample():
    points, labels, group = two_classes()
    found = recover(points, labels, rule=CLUSTERS, clustering=Clustering(samples=40))
    whole = recover(points, labels, rule=CLUSTERS)
    assert same_partition(found.groups, group)
    assert found.silhouettes != whole.silhouettes
    assert found.silhouettes[7] == pytest.approx(whole.silhouettes[7], abs=0.05)


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_classes(rule):
    # One example; two examples; one point many times; then a class to tell them from.
    points = np.concatenate([np.eye(4)[:3], np.tile(np.eye(4)[3], (30, 1)), -np.eye(4)])
    labels = np.array([0, 1, 1] + [2] * 30 + [3] * 4)
    found = recover(points, labels, points[:3], labels[:3], rule=RULES[rule]())
    assert found.clusters[0] == found.clusters[1] == found.clusters[2] == 1
    np.testing.assert_array_equal(found.groups[:3], found.validation_groups)
    assert found.classes[found.groups].tolist() == labels.tolist()
    assert len(found.classes) == found.groups.max() + 1


def umap_module(calls):
    class UMAP:
        def __init__(self, **options):
            calls.append(options)

        def fit_transform(self, points):
            return points[:, :2].astype(np.float32)

        def transform(self, points):
            return points[:, :2].astype(np.float32)

    module = types.ModuleType("umap")
    module.UMAP = UMAP
    return module


def test_umap_is_fitted_to_each_class(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "umap", umap_module(calls))
    points, labels, _ = two_classes()
    found = recover(
        points,
        labels,
        points,
        labels,
        rule=CLUSTERS,
        clustering=Clustering(projection="umap"),
        seed=4,
    )
    expected = {"n_components": 2, "n_neighbors": 10, "min_dist": 0.0, "random_state": 4}
    assert calls == [expected | {"n_jobs": 1}] * 2
    np.testing.assert_array_equal(found.groups, found.validation_groups)
    with_none = recover(
        points[:, :2] + 0.0, labels, rule=CLUSTERS, clustering=Clustering(normalize=False)
    )
    assert with_none.clusters == {3: 2, 7: 3}


def test_missing_umap_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    points, labels, _ = two_classes()
    with pytest.raises(MissingDependencyError, match=r"umap-learn: .*'\.\[umap\]'") as caught:
        recover(points, labels, clustering=Clustering(projection="umap"))
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            {"clustering": Clustering("dbscan")},
            ValueError,
            "clustering.method: expected one of .*'dbscan'",
        ),
        (
            {"clustering": Clustering(projection="pca")},
            ValueError,
            "clustering.projection: expected one of .*'pca'",
        ),
        (
            {"clustering": Clustering(max_clusters=1)},
            ValueError,
            "clustering.max_clusters: expected at least 2, got 1",
        ),
        (
            {"clustering": Clustering(samples=2)},
            ValueError,
            "clustering.samples: expected at least 3, got 2",
        ),
        ({"rule": "truth"}, TypeError, "rule: expected a SilhouetteRule or .*'truth'"),
        (
            {"rule": SilhouetteRule(overcluster=0)},
            ValueError,
            "rule.overcluster: expected at least 1, got 0",
        ),
        ({"rule": ErrorRule(cells=1)}, ValueError, "rule.cells: expected at least 2, got 1"),
        *(
            ({"rule": rule(clusters=0)}, ValueError, "rule.clusters: expected at least 1, got 0")
            for rule in RULES.values()
        ),
        ({"rule": ErrorRule(gap=-1.0)}, ValueError, "rule.gap: .*got -1.0"),
        (
            {"rule": ErrorRule(significance=float("inf"))},
            ValueError,
            "rule.significance: .*got inf",
        ),
        ({"train_embeddings": np.ones((4, 2), int)}, TypeError, "train_embeddings: .*int64"),
        ({"train_labels": np.zeros(3, int)}, ValueError, r"train_labels: .*\(4,\).*\(3,\)"),
        ({"train_labels": np.zeros(4, int)}, ValueError, "losses: .*one class .*got None"),
        ({"validation_labels": np.zeros(4, int)}, ValueError, "validation_labels: expected None"),
        ({"validation_losses": np.ones(4)}, ValueError, "validation_losses: expected None without"),
        ({"validation_embeddings": np.eye(4)}, TypeError, "validation_labels: .*object"),
        (
            {"validation_embeddings": np.eye(3), "validation_labels": np.arange(3) % 2},
            ValueError,
            r"validation_embeddings: expected width 4 .*\(3, 3\)",
        ),
        (
            {"validation_embeddings": np.eye(4), "validation_labels": np.array([0, 1, 1, 9])},
            ValueError,
            r"validation_labels: .*\[0, 1\], got 9 in row 3",
        ),
        (
            {
                "validation_embeddings": np.eye(4),
                "validation_labels": np.arange(4) % 2,
                "validation_losses": np.ones(4),
            },
            ValueError,
            "validation_losses: expected None without losses",
        ),
        ({"losses": np.ones(4, int)}, TypeError, "losses: .*int64"),
        ({"losses": np.ones(3)}, ValueError, r"losses: expected shape \(4,\), .*\(3,\)"),
        ({"losses": np.array([1, np.nan, 1, 1])}, ValueError, "losses: .*nan in row 1"),
        ({"losses": np.array([1, 1, -0.5, 1])}, ValueError, "losses: .*-0.5 in row 2"),
    ],
)
def test_bad_input_of_recover_is_named(edit, error, message):
    given = {"train_embeddings": np.eye(4), "train_labels": np.arange(4) % 2} | edit
    with pytest.raises(error, match=message):
        recover(**given)


def test_bad_input_of_assign_is_named():
    points, labels, _ = two_classes()
    found = recover(points, labels, rule=CLUSTERS, clustering=Clustering(max_clusters=3))
    with pytest.raises(ValueError, match=r"embeddings: expected width 3 .*\(250, 2\)"):
        assign(found, points[:, :2], labels)
    with pytest.raises(ValueError, match=r"labels: .*\[3, 7\], got 4 in row 0"):
        assign(found, points, np.full(len(points), 4))


def test_cells_are_as_many_as_a_class_can_fill(monkeypatch):
    """A rare group shows only in cells about as small as it is; large classes have more."""
    asked = []
    real = error_rule.fit

    def fit(points, k, *options):
        asked.append(k)
        return real(points, k, *options)

    monkeypatch.setattr(error_rule, "fit", fit)
    clustering = Clustering(max_clusters=2, samples=100)
    generator = np.random.default_rng(0)
    for size, told, pieces in ((600, None, 40 // 2), (18_000, None, 90 // 2), (600, 12, 12 // 2)):
        points = generator.normal(size=(size, 2))
        labels = np.zeros(size, np.int64)
        losses = np.abs(points[:, 0])
        rule = ErrorRule(cells=told)
        recover(points, labels, rule=rule, clustering=clustering, losses=losses)
        assert asked[-1] == pieces
    with pytest.raises(ValueError, match="cells: expected at least 2, got 1"):
        recover(points, labels, rule=ErrorRule(cells=1), losses=losses)
