"""The predictions against losses written out over explicit embeddings, in NumPy's float64."""

import doctest
import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from thanos_jax.errors import UserError
from thanos_jax.theory import balance
from thanos_jax.theory.balance import claim, minimum, predictions
from thanos_jax.theory.balance.batches import Batches
from thanos_jax.theory.balance.weights import first_to_spread, make_loss, named

FORMS = pytest.mark.parametrize(
    ("loss", "denominator", "views"),
    [
        *itertools.product(["spread"], ["all", "one_positive"], ["all", "cross"]),
        ("joint", "all", "all"),
        ("joint", "one_positive", "cross"),
    ],
)


def simplex(points):
    """The vertices of a regular simplex, in rows of length 1."""
    centred = np.eye(points) - 1 / points
    return centred / np.linalg.norm(centred[0]) if points > 1 else centred


def embeddings(classes, images, w):
    """The family of docs/balance.md, [classes, images, d]."""
    found = np.zeros((classes, images, classes * (images + 1)))
    for c, means in enumerate(simplex(classes)):
        found[c, :, :classes] = np.sqrt(1 - w) * means
        found[c, :, classes + c * images :][:, :images] = np.sqrt(w) * simplex(images)
    return found


def written_out(z, labels, weight, loss, denominator, views, t):
    """A loss over pairs; z [images, d], both views alike, weight alpha or beta."""
    images, labels = np.tile(np.arange(len(z)), 2), np.tile(labels, 2)
    view = np.repeat([0, 1], len(z))
    s, total = (z @ z.T)[images][:, images] / t, 0.0
    for i in range(len(images)):
        met = view != view[i] if views == "cross" else np.arange(len(images)) != i
        same, own = met & (labels == labels[i]), met & (images == images[i])
        log_sum = lambda mask, row=s[i]: scipy.special.logsumexp(row[mask])  # noqa: E731
        if denominator == "all":
            supcon = log_sum(met) - s[i][same].mean()
        else:
            far = log_sum(met & (labels != labels[i])) if np.any(met & ~same) else -np.inf
            supcon = np.mean([np.logaddexp(x, far) - x for x in s[i][same]])
        spreading = log_sum(same if loss == "spread" else met) - s[i][own].mean()
        a = weight if loss == "spread" else 1 - weight
        total += (1 - a) * supcon + a * spreading
    return total / len(images)


def name_of(loss):
    return "beta" if loss == "joint" else "alpha"


@FORMS
@pytest.mark.parametrize("draw", ["balanced", "uniform"])
def test_the_minimum_is_that_of_the_loss_written_out(loss, denominator, views, draw):
    classes, held, shown, t = 2, 3, 2, 0.4
    labels = np.repeat(np.arange(classes), held)
    draws = itertools.combinations(range(classes * held), classes * shown)
    if draw == "balanced":
        draws = [rows for rows in draws if all(np.bincount(labels[list(rows)]) == shown)]
    # Which image of a class is drawn makes no difference here: once each kind of batch is enough.
    kinds = {}
    for rows in map(list, draws):
        key = tuple(sorted(np.bincount(labels[rows], minlength=classes)))
        kinds.setdefault(key, [rows, 0])[1] += 1

    def value(w, weight):
        z = embeddings(classes, held, w).reshape(len(labels), -1)
        form = (weight, loss, denominator, views, t)
        return sum(
            count * written_out(z[rows], labels[rows], *form) for rows, count in kinds.values()
        ) / sum(count for _, count in kinds.values())

    keywords = {
        "loss": loss, "temperature": t, "classes": classes, "images_per_class": shown,
        "images_in_all": held, "denominator": denominator, "views": views, "draw": draw,
    }  # fmt: skip
    weight = balance.alpha_for(0.3, **keywords)
    spread = balance.within_class_spread(**keywords, **{name_of(loss): weight})
    assert spread == pytest.approx(0.3, abs=1e-9)
    found = scipy.optimize.minimize_scalar(
        value, bounds=(0, 1), args=(weight,), method="bounded", options={"xatol": 1e-6}
    )
    assert found.x == pytest.approx(0.3, abs=1e-4)
    least = balance.least_loss(**keywords, **{name_of(loss): weight})
    assert least == pytest.approx(found.fun, abs=1e-8)
    # The threshold: as steep one way as the other, between collapse and nearly collapse.
    edge = balance.threshold(**keywords)
    small = 1e-5
    flat = (value(small, edge) - value(0.0, edge)) / small
    steep = (value(small, weight) - value(0.0, weight)) / small
    assert abs(flat) < 0.01 * abs(steep)
    assert steep < 0


def test_known_thresholds():
    def closed(m, n, t):
        e, far = math.exp(1 / t), math.exp(-1 / ((m - 1) * t))
        r = (2 * n * m - 1) * far / ((2 * n - 1) * e + 2 * n * (m - 1) * far)
        return r / (1 + r)

    for m, n, t in itertools.product((2, 10, 1000), (2, 64), (0.07, 0.5, 1.0)):
        found = balance.threshold(temperature=t, classes=m, images_per_class=n)
        assert found == pytest.approx(closed(m, n, t), rel=1e-9, abs=1e-15)
    table = [
        balance.threshold(temperature=0.5, classes=m, images_per_class=64) for m in (2, 10, 100)
    ]
    np.testing.assert_allclose(table, [0.035, 0.355, 0.484], atol=5e-4)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ((10, 2, 16, 0.2, 0.5, "balanced"), 0.242),
        ((4, 4, 32, 0.2, 0.5, "balanced"), 0.393),
        ((2, 8, 64, 0.5, 0.25, "balanced"), 0.469),
        ((10, 2, 16, 0.2, 0.5, "uniform"), 0.316),
    ],
)
def test_batches_from_more_images_spread_as_descent_measured(setting, expected):
    m, n, held, t, alpha, draw = setting
    found = balance.within_class_spread(
        alpha=alpha, temperature=t, classes=m, images_per_class=n, images_in_all=held, draw=draw
    )
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("loss", "denominator", "views"),
    [("spread", "all", "cross"), ("spread", "one_positive", "all"), ("joint", "all", "all")],
)
def test_classes_of_several_kinds_are_what_one_kind_is(loss, denominator, views):
    # The same six classes, as one kind and as two.
    one = {"classes": 6, "images_per_class": 8}
    two = Batches(
        np.array([0, 0, 0, 0, 1, 1]), np.array([4, 2]), np.array([8.0, 8.0]),
        np.array([True, True]), np.array([2 / 3, 1 / 3]), np.array([0, 1]),
        np.array([2 / 3, 1 / 3]), np.array([7.0, 7.0]), np.array([40.0, 40.0]),
        np.array([[0.6, 0.4], [0.8, 0.2]]),
    )  # fmt: skip
    form = {"loss": loss, "temperature": 0.5, "denominator": denominator, "views": views}
    weight = balance.alpha_for(0.4, **form, **one)
    of_terms = make_loss(loss, 0.5, denominator, views)
    found = minimum.spreads(two, of_terms, named(of_terms, weight))
    np.testing.assert_allclose(found, 0.4, atol=1e-5)
    least = minimum.least(two, of_terms, named(of_terms, weight))
    alone = balance.least_loss(**form, **one, **{name_of(loss): weight})
    assert least == pytest.approx(alone, abs=1e-8)
    edge = first_to_spread(two, of_terms)
    assert named(of_terms, edge) == pytest.approx(balance.threshold(**form, **one), abs=1e-9)


def test_unequal_classes():
    keywords = {"temperature": 0.5, "classes": 3, "images_per_class": [8, 4, 4]}
    each = balance.each_class(alpha=0.3, **keywords)
    assert each.shape == (3,)
    assert each[0] > each[1] == pytest.approx(each[2], abs=1e-6)
    mean = balance.within_class_spread(alpha=0.3, **keywords)
    assert mean == pytest.approx((8 * each[0] + 4 * each[1] + 4 * each[2]) / 16)
    # The large class spreads first, at the threshold.
    edge = balance.threshold(**keywords)
    assert not np.any(balance.each_class(alpha=edge, **keywords))
    above = balance.each_class(alpha=edge + 0.005, **keywords)
    assert above[0] > 1e-3 > 1e-6 > above[1]
    assert balance.alpha_for(mean, **keywords) == pytest.approx(0.3, abs=1e-5)
    # In another order, and with one image in a class.
    turned = balance.each_class(alpha=0.3, **{**keywords, "images_per_class": [4, 8, 4]})
    np.testing.assert_allclose(turned, each[[1, 0, 2]], atol=1e-6)
    assert balance.each_class(alpha=0.5, **{**keywords, "images_per_class": [8, 4, 1]})[2] == 0


def test_fewer_classes_in_a_batch_push_less():
    keywords = {"temperature": 0.3, "classes": 100, "images_per_class": 4, "images_in_all": 500}
    all_ = balance.within_class_spread(alpha=0.5, **keywords)
    assert all_ == balance.within_class_spread(alpha=0.5, classes_in_batch=100, **keywords)
    assert balance.within_class_spread(alpha=0.5, classes_in_batch=8, **keywords) > all_ + 0.05


def test_spread_grows_with_the_weight():
    keywords = {"temperature": 0.2, "classes": 10, "images_per_class": 25.6, "draw": "uniform"}
    keywords["images_in_all"] = math.inf
    found = [balance.within_class_spread(alpha=a, **keywords) for a in np.linspace(0, 1, 11)]
    assert found[0] == 0
    assert np.all(np.diff(found) >= 0)
    assert found[-1] == 1
    many = balance.within_class_spread(alpha=0.3, **{**keywords, "images_in_all": 10**6})
    assert many == pytest.approx(found[3], abs=1e-4)


def test_one_image_of_a_class_has_nothing_to_spread():
    keywords = {"temperature": 0.5, "classes": 5, "images_per_class": 1, "images_in_all": 9}
    assert balance.within_class_spread(alpha=0.9, **keywords) == 0.0
    assert balance.within_class_spread(loss="supcon", **keywords) == 0.0
    assert balance.threshold(**keywords) == 1.0
    assert balance.threshold(loss="joint", **keywords) == 0.0
    with pytest.raises(balance.BalanceError, match=r"^images_per_class: .*two images.* got 1$"):
        balance.alpha_for(0.5, **keywords)


def test_supcon_collapses_and_infonce_is_uniform():
    keywords = {"temperature": 0.3, "classes": 4, "images_per_class": 6}
    assert balance.within_class_spread(loss="supcon", **keywords) == 0.0
    collapsed = math.log(11 + 36 * math.exp(-(4 / 3) / 0.3))
    assert balance.least_loss(loss="supcon", **keywords) == pytest.approx(collapsed)
    uniform = balance.within_class_spread(loss="joint", beta=0.0, **keywords)
    sizes = {"classes": 4, "images_per_class": 6}
    assert uniform == pytest.approx(balance.uniform_spread(**sizes), abs=1e-9)
    assert uniform == pytest.approx(4 * 5 / 23)
    with pytest.raises(
        balance.BalanceError, match=r"^within_class_spread: expected at most 0.8695"
    ):
        balance.alpha_for(0.9, loss="joint", **keywords)


@pytest.mark.parametrize("loss", ["spread", "joint"])
def test_sets_win_in_the_range_and_not_outside(loss):
    m, n, t, w = 3, 4, 0.5, 0.4
    keywords = {"loss": loss, "temperature": t, "classes": m, "images_per_class": n}
    low, high = balance.winning_range(w, **keywords)
    labels = np.repeat(np.arange(m), n)

    def value(spread, weight):
        z = embeddings(m, n, spread).reshape(m * n, -1)
        return written_out(z, labels, weight, loss, "all", "all", t)

    uniform = balance.uniform_spread(classes=m, images_per_class=n)

    def wins(weight):
        mine = value(w, weight)
        return mine < value(0.0, weight) and mine < value(uniform, weight)

    assert wins(low + 1e-4)
    assert wins(high - 1e-4)
    assert not wins(low - 1e-4)
    assert not wins(high + 1e-4)
    # The best set for each weight wins in the whole range, from the threshold.
    whole = balance.winning_range(**keywords)
    assert whole.low <= low < high <= whole.high
    ends = {"spread": whole.low, "joint": whole.high}
    assert ends[loss] == pytest.approx(balance.threshold(**keywords))
    far = whole.high if loss == "spread" else whole.low
    at_end = balance.within_class_spread(**keywords, **{name_of(loss): far})
    assert at_end == pytest.approx(uniform, abs=1e-6)


@pytest.mark.parametrize("module", [predictions, claim])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > 1
    assert found.failed == 0


SETTING = {"alpha": 0.5, "temperature": 0.5, "classes": 4, "images_per_class": 8}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 1}, "^classes: expected an integer of at least 2, got 1$"),
        ({"classes": 2.0}, "^classes: expected an integer of at least 2, got 2.0$"),
        ({"temperature": 0.0}, "^temperature: expected a positive number, got 0.0$"),
        ({"temperature": math.nan}, "^temperature: expected a positive number, got nan$"),
        ({"alpha": None}, r"^alpha: expected a number in \[0, 1\], got None$"),
        ({"alpha": 1.5}, r"^alpha: expected a number in \[0, 1\], got 1.5$"),
        ({"beta": 0.5}, "^beta: expected None with loss='spread', got 0.5$"),
        ({"loss": "joint"}, "^alpha: expected None with loss='joint', got 0.5$"),
        ({"loss": "info_nce"}, r"^loss: expected one of \('spread', .*got 'info_nce'$"),
        ({"denominator": "some"}, r"^denominator: expected one of .*got 'some'$"),
        ({"views": "own"}, r"^views: expected one of .*got 'own'$"),
        ({"draw": "any"}, r"^draw: expected one of .*got 'any'$"),
        (
            {"images_per_class": 0},
            r"^images_per_class: expected integers of at least 1 \(or means.*\), got 0$",
        ),
        ({"images_per_class": 2.5}, "^images_per_class: expected integers .* got 2.5$"),
        ({"images_per_class": [8, 8]}, r"^images_per_class: .* 4, one a class, got shape \(2,\)$"),
        ({"images_per_class": math.inf}, "^images_per_class: expected integers .* got inf$"),
        ({"images_per_class": "8"}, "^images_per_class: expected integers .* got '8'$"),
        ({"images_in_all": 4}, "^images_in_all: expected at least images_per_class, 8, got 4$"),
        ({"classes_in_batch": 5}, "^classes_in_batch: expected an integer from 2 to 4, .*got 5$"),
        ({"draw": "uniform"}, "^images_in_all: expected the images .* got None$"),
        (
            {"draw": "uniform", "images_in_all": 64, "images_per_class": 8.1},
            "^images_per_class: expected a mean that makes a whole batch .* got 32.4 in all$",
        ),
        (
            {"draw": "uniform", "images_in_all": 4},
            "^images_in_all: expected at least a batch, 32 over all classes, got 16$",
        ),
        (
            {"draw": "uniform", "images_in_all": 64, "images_per_class": [4, 4, 8, 8]},
            "^images_per_class: expected the mean number of a class, in proportion ",
        ),
        (
            {"draw": "uniform", "images_in_all": 64, "classes_in_batch": 3},
            "^classes_in_batch: expected None with draw='uniform', got 3$",
        ),
    ],
)
def test_bad_arguments_are_named(change, words):
    with pytest.raises(ValueError, match=words) as raised:
        balance.within_class_spread(**{**SETTING, **change})
    assert isinstance(raised.value, UserError)


def test_bad_arguments_of_the_others_are_named():
    setting = {key: value for key, value in SETTING.items() if key != "alpha"}
    for call in (balance.threshold, balance.winning_range):
        with pytest.raises(
            ValueError, match=r"^loss: expected 'spread' or 'joint', .*got 'supcon'"
        ):
            call(loss="supcon", **setting)
    with pytest.raises(
        ValueError, match=r"^within_class_spread: expected a number in \[0, 1\], got 2"
    ):
        balance.alpha_for(2, **setting)
    with pytest.raises(ValueError, match=r"^spread: expected above 0 and below 0.9\d*, got 0"):
        balance.winning_range(0.0, **setting)
    with pytest.raises(ValueError, match=r"^images_per_class: expected classes of one size"):
        balance.winning_range(**{**setting, "images_per_class": [8, 8, 8, 4]})
