"""What a model gets wrong: classes that are confused, and the worst with its images."""

import re

import numpy as np

from thanos_jax.data.splits import ArraySplit
from thanos_jax.report.cards import Card
from thanos_jax.tasks import problems, suspects

NAMES = ("a", "b", "c")
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
FOUND = np.array([0, 0, 1, 0, 1, 2, 2, 2])


def split(names=None):
    images = np.zeros((8, 4, 4, 1), np.uint8)
    images[:] = 10 * np.arange(8)[:, None, None, None]
    names = np.arange(8) + 100 if names is None else names
    return ArraySplit(images, LABELS, LABELS, names)


def cards_of(text):
    """(name, words, marked) of each card."""
    found = []
    for entry in text.split("<li")[1:]:
        words = re.sub("</?bdi>", "", re.search("<b>(.*?)</b>", entry)[1])
        name = re.search('alt="([^"]*)"', entry)[1]
        found.append((name, words, entry.startswith(" class=marked")))
    return found


def test_the_worst_class_shows_its_wrong_images_first():
    found = problems.classes(split(), LABELS, FOUND, NAMES, kind="fine label")
    first, second = found
    assert first == "Confused most, by fine label"
    assert second == "Test images of the worst fine label: b"
    assert cards_of(found[second][0]) == [
        ("test image 103", "a", True), ("test image 105", "c", True),
        ("test image 104", "b", False),
    ]  # fmt: skip
    assert problems.classes(split(), LABELS, LABELS, NAMES, kind="class") == {}
    table = problems.confused(LABELS, FOUND, NAMES, kind="fine label")
    assert table == {first: found[first]}
    assert problems.confused(LABELS, LABELS, NAMES, kind="class") == {}
    # A class without images is not the worst.
    unseen = problems.classes(split(), LABELS, FOUND, ("a", "b", "c", "d"), kind="class")
    assert second.replace("fine label", "class") in unseen


def test_images_stand_in_the_order_that_is_asked_for(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        problems.cards, "html", lambda images, made: seen.update(images=images, made=made)
    )
    rows = np.array([6, 1, 3])
    problems.as_cards(split(), rows, [Card("x", ())] * 3)
    np.testing.assert_array_equal(seen["images"][:, 0, 0, 0], 10 * rows)


def test_images_are_named_by_file_or_by_split_and_number():
    rows = np.array([5, 0])
    assert problems.named(split(), rows, "train") == ["training image 105", "training image 100"]
    several = np.array(["train"] * 5 + ["test"] * 3)
    assert problems.named(split(), rows, several) == ["test image 105", "training image 100"]
    files = split(np.array([f"{k}.png" for k in range(8)]))
    assert problems.named(files, rows, "training") == ["5.png", "0.png"]


def test_suspects_are_those_with_another_suggestion_by_suspicion(monkeypatch):
    given = {
        "given": LABELS,
        "suggested": FOUND,
        "suspicion": np.array([0.9, 0, 0.5, 0.8, 0, 0.7, 0, 0], np.float32),
        "flagged": np.array([1, 0, 1, 1, 0, 1, 0, 0], bool),
        "reading": "Read.",
    }
    found = suspects.figures(split(), "train", NAMES, **given)
    ((title, (text, reading)),) = found.items()
    assert (title, reading) == ("Suspected labels", "Read.")
    assert [(name[-3:], words) for name, words, _ in cards_of(text)] == [
        ("103", "b → a"), ("105", "b → c"), ("102", "a → b"),
    ]  # fmt: skip
    assert re.findall(r"suspicion ([\d.]+)", text) == ["0.800", "0.700", "0.500"]
    monkeypatch.setattr(suspects, "_EXAMPLES", 2)
    assert list(suspects.figures(split(), "train", NAMES, **given)) == [
        "Suspected labels, the first 2 of 3"
    ]
    assert suspects.figures(split(), "train", NAMES, **(given | {"suggested": LABELS})) == {}
