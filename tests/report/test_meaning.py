"""What a report says of collapse."""

import re

import pytest

from thanos_jax.report import meaning


def results(index, method="spread", **more):
    test = {"collapse_index": index, "within_class_spread": index}
    return {"method": method, "geometry": {"test": test}, **more}


@pytest.mark.parametrize(
    ("index", "method", "words"),
    [
        (0.1, "spread", "collapsed, or nearly: 10 % of the variance.*a higher loss.alpha spreads"),
        (0.1, "joint", "a lower loss.beta spreads them"),
        (0.19, "supcon", "config.method 'spread' or 'thanos' spreads them"),
        (0.21, "supcon", "spread and apart: 21 %"),
        (0.89, "thanos", "spread and apart: 89 %"),
        (0.95, "thanos", "past its classes: 95 %.*a lower loss.alpha draws them together"),
        (0.95, "ce", "longer training may part them"),
    ],
)
def test_the_sentence_follows_the_index_and_the_method(index, method, words):
    (found,) = meaning.sentences(results(index, method))
    assert re.search(words.replace(".alpha", r"\.alpha"), found)


def test_the_gauge_stands_where_the_index_is():
    more = {"fine_accuracy": 0.75, "fine_accuracy_collapsed": 0.2}
    text = meaning.collapse(results(0.25, **more))
    assert text.count("<i") == 1
    assert 'style="left:25.0%"' in text
    assert 'aria-label="collapse index 0.25; 0: collapsed, 1: class means coincide"' in text
    assert "for 75.0 % of the images; an embedding whose classes are points" in text
    assert "allows 20.0 %" in text
    text = meaning.collapse(results(0.25, spread={"predicted_within_class_spread": 0.5}))
    assert 'class="predicted" style="left:50.0%"' in text
    assert "a spread within classes of 0.50 (hollow mark); measured on test images: 0.25." in text


@pytest.mark.parametrize("given", [{}, {"geometry": {}}, results(float("nan")), results(None)])
def test_nothing_is_said_where_nothing_was_measured(given):
    assert meaning.collapse(given) == ""
