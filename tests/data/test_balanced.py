"""Class-balanced batches, held to a definition that draws a stream from its beginning."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thanos_jax.data.balanced import ClassBalance, class_counts
from thanos_jax.data.batches import sample_indices, train_batches
from thanos_jax.data.splits import ArraySplit
from thanos_jax.permutations import CLASS_ORDER, IMAGE_ORDER, permutation


def stream(seed, start, size, width):
    """Endless passes; one after another, none knows what comes later."""
    drawn = []
    for number in itertools.count():
        if size < 2 * width - 1:
            passes_to_meet = math.lcm(size, width) // size
            order = permutation(seed, start + number // passes_to_meet, size).tolist()
        else:
            order = permutation(seed, start + number, size).tolist()
            begun = drawn[len(drawn) - len(drawn) % width :]
            head = order[:width]
            order = [
                *(x for x in head if x not in begun),
                *(x for x in head if x in begun),
                *order[width:],
            ]
        drawn += order
        yield from order


def plain_batches(labels, *, seed, batch_size, each):
    """Every batch from the first, each a list of (class, its images)."""
    members = {c: np.flatnonzero(labels == c) for c in np.unique(labels).tolist()}
    names, count = list(members), batch_size // each
    images = {
        c: stream(seed, IMAGE_ORDER + 2**32 * c, len(rows), each) for c, rows in members.items()
    }
    classes = stream(seed, CLASS_ORDER, len(names), count)
    while True:
        chosen = [names[index] for index in itertools.islice(classes, count)]
        yield [(c, members[c][list(itertools.islice(images[c], each))]) for c in chosen]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any),
    each=st.integers(1, 6),
    data=st.data(),
    seed=st.integers(0, 100),
    first=st.integers(0, 12),
)
@settings(deadline=None, max_examples=60)
def test_steps_are_the_stream_from_wherever_they_begin(sizes, each, data, seed, first):
    count = data.draw(st.integers(1, sum(size > 0 for size in sizes)))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batch_size = count * each
    options = {"seed": seed, "batch_size": batch_size, "size": len(labels)}
    balance = ClassBalance(labels, images_per_class=each)
    expected = itertools.islice(plain_batches(labels, seed=seed, batch_size=batch_size, each=each),
                                first + 4)  # fmt: skip
    drawn_of_class = collections.Counter(dict.fromkeys(np.unique(labels).tolist(), 0))
    drawn = np.zeros(len(labels), int)
    for step, batch in enumerate(expected):
        numbers = np.concatenate([rows for _, rows in batch])
        if step >= first:
            found = sample_indices(step=step, balance=balance, **options)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, numbers)
        # What is promised, of every batch and at every step.
        in_batch = np.bincount(labels[numbers], minlength=len(sizes))
        assert sorted(in_batch[in_batch > 0]) == [each] * count
        drawn += (times := np.bincount(numbers, minlength=len(labels)))
        drawn_of_class.update(c for c, _ in batch)
        assert max(drawn_of_class.values()) - min(drawn_of_class.values()) <= 1
        for c, _ in batch:
            of_class = labels == c
            least, most = each // of_class.sum(), -(-each // of_class.sum())
            assert set(times[of_class]) <= {least, most}
            assert np.ptp(drawn[of_class]) <= 1


def test_the_order_is_fixed_for_good():
    # Runs in progress depend on these numbers.
    labels = np.array([2, 0, 0, 2, 1, 0, 1, 0, 2, 4])
    balance = ClassBalance(labels, images_per_class=2)
    drawn = [balance.draw(seed=7, step=step, batch_size=6, size=10).tolist() for step in range(3)]
    assert drawn == [[9, 9, 4, 6, 0, 3], [1, 5, 9, 9, 4, 6], [8, 3, 7, 2, 9, 9]]


def test_other_seeds_and_other_passes_are_other_orders():
    labels = np.repeat(np.arange(20), 15)
    balance = ClassBalance(labels, images_per_class=3)
    options = {"batch_size": 60, "size": 300}
    whole = {
        (seed, step): tuple(balance.draw(seed=seed, step=step, **options).tolist())
        for step in range(10)
        for seed in (0, 1)
    }
    assert len(set(whole.values())) == 20
    # In whatever order they are asked for.
    again = ClassBalance(labels, images_per_class=3).draw(seed=1, step=7, **options)
    assert whole[1, 7] == tuple(again.tolist())
    # Classes meet at random: of 64 steps, each of 20 classes is in half with each other one.
    halves = [labels[balance.draw(seed=0, step=s, batch_size=33, size=300)] for s in range(400)]
    present = np.stack([np.bincount(half, minlength=20) > 0 for half in halves]).astype(int)
    together = (present.T @ present)[np.triu_indices(20, 1)] / 400
    assert 0.5 * 11 * 10 / 380 < together.min() < together.max() < 1.5 * 11 * 10 / 380


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 10}, ValueError, "4 images of each of 1 to 3 classes, got 10"),
        ({"batch_size": 16}, ValueError, "4 images of each of 1 to 3 classes, got 16"),
        ({"size": 21}, ValueError, "size: expected 30, one label each, got 21"),
        ({"step": -1}, ValueError, "step: expected at least 0, got -1"),
        ({"seed": -1}, ValueError, "seed: expected at least 0 and below"),
        ({"images_per_class": 0}, ValueError, "images_per_class: expected at least 1, got 0"),
        ({"images_per_class": 1.5}, TypeError, "float"),
        ({"labels": np.arange(3) - 1}, ValueError, "labels: expected labels 0 to"),
        ({"labels": np.zeros(0, int)}, ValueError, "labels: expected"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_batch(changes, error, message):
    given = {"labels": np.arange(30) % 3, "images_per_class": 4, "batch_size": 8, "seed": 0,
             "step": 0, "size": 30, **changes}  # fmt: skip
    with pytest.raises(error, match=message):
        sample_indices(
            balance=ClassBalance(
                given.pop("labels"), images_per_class=given.pop("images_per_class")
            ),
            **given,
        )


def test_batches_of_a_split():
    labels = (np.arange(40) ** 2 % 7).astype(np.int32)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None]
    split = ArraySplit(images, np.arange(40), labels)
    options = {"seed": 3, "batch_size": 9, "last_step": 6}
    balance = ClassBalance(labels, images_per_class=3)
    whole = list(train_batches(split, first_step=0, balance=balance, **options))
    for step, batch in enumerate(whole):
        rows = balance.draw(seed=3, step=step, batch_size=9, size=40)
        np.testing.assert_array_equal(batch["image"].ravel(), rows)
        assert (np.unique(batch["coarse"], return_counts=True)[1] == 3).all()
    # Resumed, by another process: its passes are not remembered.
    again = ClassBalance(labels, images_per_class=3)
    rest = list(train_batches(split, first_step=4, balance=again, **options))
    for found, expected in zip(rest, whole[4:], strict=True):
        np.testing.assert_array_equal(found["fine"], expected["fine"])
    with pytest.raises(ValueError, match="of 1 to 4 classes, got 15"):
        train_batches(split, first_step=0, balance=balance, **{**options, "batch_size": 15})


def test_counts_of_classes_in_batches():
    batches = [np.array([0, 0, 1, 5]), np.array([5, 5, 5, 2]), np.array([7, 7, 7, 7])]
    assert class_counts(map(np.asarray, batches)) == {
        "classes_in_batch": (3 + 2 + 1) / 3,
        "class_images_min": 1,
        "class_images_mean": 12 / 6,
        "class_images_max": 4,
    }
