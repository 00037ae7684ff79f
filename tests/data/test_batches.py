import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thanos_jax.data.batches import evaluation_batches, sample_indices, train_batches
from thanos_jax.data.splits import ArraySplit, DataError, RecordSplit
from thanos_jax.permutations import permutation


def array_split(size):
    images = np.random.default_rng(size).integers(0, 256, (size, 3, 2, 1), np.uint8)
    return ArraySplit(images, np.arange(size), np.arange(size) // 2)


def record_split(size, *, decode=None):
    """The examples of array_split(size), each decoded after a moment of its own."""
    arrays = array_split(size)

    def slow(record):
        time.sleep(0.001 * (int(record) % 3))
        return arrays.images[int(record)], int(record), int(record) // 2

    return RecordSplit(
        [str(number).encode() for number in range(size)],
        decode or slow,
        image_shape=(3, 2, 1),
        num_fine=size,
        num_coarse=size,
        dataset="few",
        split="train",
        file_of=lambda number: "file",
    )


def assert_equal_batches(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        np.testing.assert_array_equal(first[key], second[key])


# Permutations


def test_permutation_is_fixed_for_good():
    # Runs in progress depend on these numbers: no change of NumPy or of this code may alter them.
    assert permutation(7, 3, 12).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1, 11, 10]
    assert permutation(2**64 - 1, 0, 5).tolist() == [0, 4, 2, 3, 1]


@given(seed=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**64 - 1), size=st.integers(1, 300))
@settings(deadline=None, max_examples=50)
def test_permutation_has_every_number_once(seed, stream, size):
    order = permutation(seed, stream, size)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 0


def test_permutation_is_uniform():
    # All 24 orders of 4 over 4,800 streams: 200 each, with a standard deviation of 14.
    orders = [tuple(permutation(1, stream, 4).tolist()) for stream in range(4800)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24
    assert 130 < min(counts.values()) <= max(counts.values()) < 270


def test_permutation_depends_on_seed_and_stream():
    orders = [permutation(*key, 50).tolist() for key in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 0, 3), "seed"), ((2**64, 0, 3), "seed"), ((0, -1, 3), "stream"), ((0, 0, 0), "size")],
)
def test_permutation_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"{message}: expected"):
        permutation(*arguments)


# The stream of training samples


@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 54),
    seed=st.integers(0, 100),
    first=st.integers(0, 40),
)
@settings(deadline=None, max_examples=100)
def test_steps_are_the_stream(size, batch, seed, first):
    steps = range(first, first + 5)
    found = np.concatenate(
        [sample_indices(seed=seed, step=step, batch_size=batch, size=size) for step in steps]
    )
    assert found.dtype == np.int64
    epochs = range(steps.stop * batch // size + 1)
    stream = np.concatenate([permutation(seed, epoch, size) for epoch in epochs])
    np.testing.assert_array_equal(found, stream[first * batch : steps.stop * batch])


@pytest.mark.parametrize(("size", "batch"), [(10, 3), (7, 20), (64, 64)])
def test_every_sample_is_used_equally_often(size, batch):
    # After `size` steps the stream has passed exactly `batch` epochs.
    seen = [sample_indices(seed=3, step=s, batch_size=batch, size=size) for s in range(size)]
    np.testing.assert_array_equal(np.bincount(np.concatenate(seen)), np.full(size, batch))


def test_sample_indices_may_be_changed_by_their_owner():
    options = {"seed": 0, "step": 0, "batch_size": 4, "size": 8}
    first = sample_indices(**options)
    expected = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(sample_indices(**options), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"step": -1}, "step: expected at least 0, got -1"),
        ({"seed": -1}, "seed: expected at least 0 and below"),
    ],
)
def test_sample_indices_refuses(changes, message):
    options = {"seed": 0, "step": 0, "batch_size": 8, "size": 20}
    with pytest.raises(ValueError, match=message):
        sample_indices(**{**options, **changes})
    with pytest.raises(TypeError, match="float"):
        sample_indices(**{**options, "step": 1.5})


# Training batches


@pytest.mark.parametrize("kind", [array_split, record_split])
def test_train_batches_hold_the_samples_of_their_steps(kind):
    arrays = array_split(20)
    batches = train_batches(kind(20), seed=9, batch_size=6, first_step=0, last_step=15)
    step = -1
    for step, batch in enumerate(batches):
        indices = sample_indices(seed=9, step=step, batch_size=6, size=20)
        expected = {
            "image": arrays.images[indices],
            "fine": indices.astype(np.int32),
            "coarse": (indices // 2).astype(np.int32),
        }
        assert_equal_batches(batch, expected)
    assert step == 14


@pytest.mark.parametrize("kind", [array_split, record_split])
def test_train_batches_resume_at_every_step(kind):
    split = kind(20)
    options = {"seed": 1, "batch_size": 8, "last_step": 7}
    whole = list(train_batches(split, first_step=0, **options))
    for first in range(8):
        rest = list(train_batches(split, first_step=first, **options))
        assert len(rest) == 7 - first
        for found, expected in zip(rest, whole[first:], strict=True):
            assert_equal_batches(found, expected)


@pytest.mark.parametrize("read_threads", [0, 1, 5])
def test_reading_ahead_changes_nothing(read_threads):
    options = {"seed": 1, "batch_size": 4, "first_step": 2, "last_step": 12}
    ahead = train_batches(record_split(20), read_threads=read_threads, **options)
    for found, expected in zip(ahead, train_batches(array_split(20), **options), strict=True):
        assert_equal_batches(found, expected)


def reading_threads():
    return [thread for thread in threading.enumerate() if "grain-prefetch" in thread.name]


def wait_for_no_reading_threads():
    deadline = time.monotonic() + 20
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not reading_threads()


def test_reading_threads_end_with_their_consumer():
    wait_for_no_reading_threads()  # those of earlier tests
    batches = train_batches(
        record_split(20), seed=0, batch_size=4, first_step=0, last_step=10**6, read_threads=3
    )
    next(batches)
    assert len(reading_threads()) == 3
    batches.close()
    wait_for_no_reading_threads()


def test_an_unusable_record_stops_the_batches_that_hold_it():
    def decode(record):
        if record == b"13":
            raise OSError("cut short")
        return np.zeros((3, 2, 1), np.uint8), 0, 0

    split = record_split(20, decode=decode)
    options = {"seed": 0, "batch_size": 4, "first_step": 0, "last_step": 5}
    steps = (sample_indices(seed=0, step=s, batch_size=4, size=20) for s in range(5))
    healthy = [13 in step for step in steps].index(True)
    batches = train_batches(split, **options)
    for _ in range(healthy):
        next(batches)
    with pytest.raises(DataError, match=r"record 13 \(file\): cut short") as caught:
        next(batches)
    assert str(caught.value).startswith("few, split 'train'")
    # Even while the error, and with it the reader's frame, is still held.
    wait_for_no_reading_threads()


def test_without_grain_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    options = {"seed": 0, "batch_size": 4, "first_step": 0, "last_step": 5}
    with pytest.raises(ImportError, match=r"pip install '\.\[tfds\]'"):
        train_batches(record_split(20), **options)
    with pytest.raises(ImportError, match=r"pip install '\.\[tfds\]'"):
        evaluation_batches(record_split(20), batch_size=4)
    assert len(list(train_batches(record_split(20), read_threads=0, **options))) == 5
    assert len(list(train_batches(array_split(20), **options))) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"first_step": -1}, "0 <= first_step <= last_step, got -1 and 5"),
        ({"first_step": 6}, "0 <= first_step <= last_step, got 6 and 5"),
        ({"seed": -1}, "seed: expected at least 0 and below"),
        ({"read_threads": -1}, "read_threads: expected at least 0"),
        ({"split": array_split(0)}, "size: expected at least 1, got 0"),
    ],
)
def test_train_batches_refuses_before_the_first_batch(changes, message):
    options = {
        "split": array_split(20),
        "seed": 0,
        "batch_size": 8,
        "first_step": 0,
        "last_step": 5,
    }
    with pytest.raises(ValueError, match=message):
        train_batches(**{**options, **changes})


def test_no_steps_is_no_batches():
    for kind in (array_split, record_split):
        options = {"seed": 0, "batch_size": 8, "first_step": 3, "last_step": 3}
        assert list(train_batches(kind(20), **options)) == []


# Evaluation batches


@pytest.mark.parametrize("kind", [array_split, record_split])
@pytest.mark.parametrize(("size", "batch_size"), [(20, 8), (20, 5), (3, 12), (1, 1)])
def test_evaluation_sees_every_example_once_and_in_order(kind, size, batch_size):
    arrays = array_split(size)
    batches = list(evaluation_batches(kind(size), batch_size=batch_size))
    assert len(batches) == -(-size // batch_size)
    seen = []
    for batch in batches:
        assert batch["image"].shape == (batch_size, 3, 2, 1)
        assert batch["where"].dtype == np.bool_
        assert batch["index"].dtype == np.int64
        np.testing.assert_array_equal(batch["image"], arrays.images[batch["index"]])
        np.testing.assert_array_equal(batch["fine"], batch["index"])
        np.testing.assert_array_equal(batch["coarse"], batch["index"] // 2)
        assert not batch["index"][~batch["where"]].any()  # padding repeats example 0
        seen.extend(batch["index"][batch["where"]].tolist())
    assert seen == list(range(size))


@pytest.mark.parametrize(("size", "parts"), [(20, 4), (33, 2), (3, 4), (16, 8), (9, 1)])
def test_each_part_of_evaluation_batches_is_a_stretch_of_the_split(size, parts):
    batches = list(evaluation_batches(array_split(size), batch_size=8, parts=parts))
    assert len(batches) == -(-size // 8)
    # What each device gets, batch after batch, device after device.
    seen, where = (
        np.concatenate([batch[name].reshape(parts, -1) for batch in batches], axis=1).reshape(-1)
        for name in ("fine", "where")
    )
    assert where[:size].all()
    assert not where[size:].any()
    np.testing.assert_array_equal(seen[:size], np.arange(size))
    assert not seen[size:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"parts": 0}, "parts: expected at least 1, got 0"),
        ({"parts": 3}, "batch_size: expected a multiple of 3 parts, got 8"),
        ({"read_threads": -1}, "read_threads: expected at least 0, got -1"),
        ({"split": array_split(0)}, "split: expected at least one example, got 0"),
    ],
)
def test_evaluation_batches_refuses_before_the_first_batch(changes, message):
    options = {"split": array_split(20), "batch_size": 8}
    with pytest.raises(ValueError, match=message):
        evaluation_batches(**{**options, **changes})
