"""Cards of images, and the table of what is confused."""

import base64
import io
import re
import tracemalloc

import numpy as np
import pytest
import report_maps as maps
from PIL import Image

from thanos_jax.report import cards, confusion
from thanos_jax.report.cards import Card


def pictures_of(text):
    found = re.findall(r'src="data:image/webp;base64,([^"]*)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


@pytest.mark.parametrize("channels", [1, 3])
def test_cards_show_their_images_in_order(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, channels), np.uint8)
    made = [
        Card("a.png", ("cat", "dog"), "suspicion 0.9", True),
        Card("test image 7", ()),
        Card(maps.NASTY, (maps.NASTY,), maps.NASTY),
    ]
    text = cards.html(images, made)
    for shown, image in zip(pictures_of(text), images, strict=True):
        np.testing.assert_array_equal(shown, np.broadcast_to(image, (8, 6, 3)))
    assert re.findall(r'width="(\d+)" height="(\d+)"', text) == [("72", "96")] * 3
    assert "<b><bdi>cat</bdi> → <bdi>dog</bdi></b><span>suspicion 0.9</span>" in text
    assert [one.startswith(" class=marked") for one in text.split("<li")[1:]] == [
        True,
        False,
        False,
    ]
    assert re.findall(r'alt="([^"]*)"', text)[:2] == ["a.png", "test image 7"]
    assert "<script" not in text
    # What turns the direction of writing is kept within its name.
    assert text.count("\u202e") == 4
    bare = re.sub(r"<bdi>.*?</bdi>|alt=\"[^\"]*\"|<span>[^<]*</span>", "", text)
    assert "\u202e" not in bare
    with pytest.raises(ValueError, match="cards: expected 3, one for each image, got 2"):
        cards.html(images, made[:2])


def test_large_images_are_made_smaller():
    images = np.zeros((1, 100, 400, 3), np.uint8)
    images[..., 0] = 200
    text = cards.html(images, [Card("a", ())])
    (shown,) = pictures_of(text)
    assert shown.shape == (24, 96, 3)
    np.testing.assert_allclose(shown.mean(axis=(0, 1)), [200, 0, 0], atol=3)
    assert "pixels" not in text


def rows_of(text):
    lines = re.findall(r"<tr>(.*?)</tr>", text)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in lines]
    return [[re.sub(r"<[^>]*>", "", cell) for cell in line] for line in cells]


def test_all_classes_are_counted_where_there_are_few():
    rng = np.random.default_rng(0)
    labels, found = rng.integers(0, 4, (2, 300))
    found = np.where(rng.uniform(size=300) < 0.7, labels, found)
    counts = np.zeros((4, 4), int)
    for a, b in zip(labels, found, strict=True):
        counts[a, b] += 1
    names = ["a", "b", "<b>", "d"]
    text = confusion.html(labels, found, names)
    head, *rows = rows_of(text)
    assert head == ["", "a", "b", "&lt;b&gt;", "d"]
    assert [row[0] for row in rows] == head[1:]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), counts)
    off = {(a, b): counts[a, b] for a in range(4) for b in range(4) if a != b}
    (a, b), most = max(off.items(), key=lambda item: item[1])
    said = re.sub("</?bdi>", "", text)
    escaped = [name.replace("<", "&lt;").replace(">", "&gt;") for name in names]
    assert f"Most often: {escaped[a]} taken for {escaped[b]} ({most} of {counts[a].sum()})" in said
    assert "are shown" not in text
    assert text.count('scope="col"') == text.count('scope="row"') == 4
    assert 'tabindex="0"' in text


def test_of_many_classes_those_confused_most_are_shown_and_the_rest_is_counted():
    labels = np.repeat(np.arange(50), 10)
    found = labels.copy()
    found[70:76] = 30  # 7 for 30, six times
    found[300:304] = 45  # 30 for 45, four times
    found[110] = 12  # once
    text = confusion.html(labels, found, [f"c{k}" for k in range(50)], most=3)
    head, *rows = rows_of(text)
    assert head == ["", "c7", "c30", "c45", "others"]
    assert rows == [
        ["c7", "4", "6", "0", "0"], ["c30", "0", "6", "4", "0"], ["c45", "0", "0", "10", "0"],
    ]  # fmt: skip
    assert "The 3 confused most of 50 are shown." in text
    found[75] = 1
    assert rows_of(confusion.html(labels, found, [str(k) for k in range(50)], most=3))[1] == [
        *("7", "4", "5", "0", "1"),
    ]


def test_pairs_that_never_occur_take_no_memory():
    classes = 2_000  # the dense matrix would take 32 MB
    labels = np.arange(classes).repeat(2)
    found = labels.copy()
    found[:3], found[10] = 1999, 7  # 0 twice, 1 once; 5 once
    tracemalloc.start()
    text = confusion.html(labels, found, [str(k) for k in range(classes)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    said = re.sub("</?bdi>", "", text)
    assert "0 taken for 1999 (2 of 2), 1 taken for 1999 (1 of 2), 5 taken for 7 (1 of 2)." in said
    # Five classes were confused, fewer than a table may have.
    assert rows_of(text)[0] == ["", "0", "1", "5", "7", "1999", "others"]


def test_a_class_without_images_has_none_among_the_others_either():
    labels = np.array([0, 0, 1, 1, 2])
    found = np.array([3, 3, 1, 4, 2])  # 3 and 4 have no images
    text = confusion.html(labels, found, [f"c{k}" for k in range(6)], most=3)
    head, *rows = rows_of(text)
    assert head == ["", "c0", "c1", "c3", "others"]
    assert rows == [
        ["c0", "0", "0", "2", "0"], ["c1", "0", "1", "0", "1"], ["c3", "0", "0", "0", "0"],
    ]  # fmt: skip
    # The share of a label's images that are right is of all of them.
    assert "rgb(63 144 218 / 0.30)" in text


def test_nothing_is_shown_where_all_is_right_and_bad_labels_are_refused():
    labels = np.arange(3)
    assert confusion.html(labels, labels, ["a", "b", "c"]) == ""
    with pytest.raises(ValueError, match="predictions"):
        confusion.html(labels, labels[:2], ["a", "b", "c"])
    with pytest.raises(ValueError, match="labels"):
        confusion.html(labels, labels, ["a", "b"])
