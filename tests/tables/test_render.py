"""A comparison as text, files and pictures."""

import csv
import io
import re
import statistics
from html.parser import HTMLParser

import numpy as np
import pytest

from thanos_jax.tables import figures, render
from thanos_jax.tables.definitions import COARSE, COLLAPSE, FINE, SECONDS
from thanos_jax.tables.lines import Comparison, Line, summarize
from thanos_jax.tables.papers import Number

PAPER = "Author et al. 2022"
NASTY = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def result(fine, **more):
    return {"fine_accuracy": fine, "geometry": {"test": {"collapse_index": 0.125}}, **more}


def line(labels, results, errors=None, reported=None):
    return Line(labels, dict(enumerate(results)), errors or {}, reported or {})


def page_of(given, **keywords):
    return render.page(given, figures.draw(given), **keywords)


def comparison(*lines, columns=(FINE, COLLAPSE), notes=("A note.",), caption="A table"):
    return Comparison(caption, columns, lines, notes)


def methods(name="thanos"):
    return comparison(
        line(
            {"method": name},
            [result(0.8), result(0.9), result(0.95)],
            reported={"fine_accuracy": Number(79.1, 0.2, PAPER)},
        ),
        line({"method": "ce"}, [result(0.5)], {1: f"ValueError: {name}"}),
        line({"method": "joint"}, []),
        line({"method": "cauto"}, [], {0: "OSError: gone", 1: "OSError: gone"}),
    )


def sweep(axis="beta", values=(0.0, 0.5, 1.0), method="joint"):
    return [line({"method": method, axis: x}, [result(0.5), result(0.6)]) for x in values]


def test_markdown():
    lines = render.markdown(methods()).splitlines()
    deviation = statistics.stdev([80, 90, 95])
    assert lines == [
        f"| method | fine | fine ({PAPER}) | collapse index | runs |",
        "|---|---|---|---|---|",
        f"| thanos | 88.3 ± {deviation:.1f} | 79.1 ± 0.2 | 0.125 ± 0.000 | 3 |",
        "| ce | 50.0 |  | 0.125 | 1 (failed: 1) |",
        "| cauto |  |  |  | 0 (failed: 2) |",
        "",
        "A note.",
    ]


def test_a_number_that_some_runs_lack_is_averaged_over_the_others():
    runs = [result(0.5, coarse_accuracy=0.75), result(0.7), result(0.6, coarse_accuracy=None)]
    found = summarize(line({"method": "ce"}, runs), COARSE)
    assert found == (75.0, None, 1)
    assert summarize(line({"method": "ce"}, runs), SECONDS) is None


def test_numbers_that_are_not_numbers_are_seen():
    text = render.markdown(comparison(line({"method": "ce"}, [result(float("nan"))] * 2)))
    assert "| ce | nan ± nan |" in text


def test_bars_do_not_break_the_table():
    text = render.markdown(comparison(line({"method": "a|b\nc"}, [result(0.5)])))
    assert "| a\\|b c | 50.0 |" in text


def test_runs_as_csv_read_back():
    extra = {"steps": 7, "versions": {"jax": "1"}, "curve": [1, 2], "flag": True, "seed": 0}
    given = comparison(
        line({"method": "joint", "beta": 0.1}, [result(1 / 3, **extra)], {1: 'a,"b"\nc'})
    )
    rows = list(csv.DictReader(io.StringIO(render.runs_csv(given))))
    assert list(rows[0]) == [
        *("method", "beta", "seed", "fine_accuracy", "geometry.test.collapse_index"),
        *("steps", "error"),
    ]
    assert float(rows[0]["fine_accuracy"]) == 1 / 3
    assert (rows[0]["beta"], rows[0]["seed"], rows[0]["steps"]) == ("0.1", "0", "7")
    assert (rows[1]["seed"], rows[1]["steps"], rows[1]["error"]) == ("1", "", 'a,"b"\nc')


def test_rows_as_csv_read_back():
    rows = list(csv.DictReader(io.StringIO(render.summary_csv(methods()))))
    assert [row["method"] for row in rows] == ["thanos", "ce", "cauto"]
    assert float(rows[0]["fine_accuracy mean"]) == pytest.approx(265 / 3)
    assert float(rows[0]["fine_accuracy std"]) == pytest.approx(statistics.stdev([80, 90, 95]))
    assert float(rows[0]["fine_accuracy paper mean"]) == 79.1
    assert rows[0]["fine_accuracy paper"] == PAPER
    assert "geometry.test.collapse_index paper" not in rows[0]
    assert [row["fine_accuracy n"] for row in rows] == ["3", "1", "0"]
    assert [row["failed"] for row in rows] == ["0", "1", "2"]
    assert rows[1]["fine_accuracy std"] == rows[1]["fine_accuracy paper"] == ""


def test_page_holds_all_it_shows():
    text = page_of(methods())
    page = Page(text)
    words = page.words()
    for expected in (
        *("A table", "A note.", f"fine ({PAPER})", "79.1 ± 0.2", "1 (failed: 1)"),
        *("Failed runs", "ce, seed 1", "ValueError: thanos", "OSError: gone", "collapse index"),
    ):
        assert expected in words, expected
    assert page.tags.count("svg") == 1
    for tag, name, value in page.attributes:
        if name.rpartition(":")[2] in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "@import" not in text
    assert any("default-src 'none'" in value for _, _, value in page.attributes)
    assert page_of(methods()) == text


def test_page_links_the_reports_and_maps_of_its_rows():
    lines = [line._replace(folder=f'a "{k}"') for k, line in enumerate(methods().lines)]
    page = Page(page_of(methods()._replace(lines=lines), beside="maps.html"))
    found = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    folders = [f"a%20%22{k}%22/{seed}/report.html" for k, seed in ((0, 0), (0, 1), (0, 2), (1, 0))]
    assert found == [*folders, "maps.html"]


def test_page_escapes_everything():
    given = methods(NASTY)._replace(caption=NASTY, notes=[NASTY])
    page = Page(page_of(given))
    assert "script" not in page.tags
    # Title, heading, row, note, tick of the picture, error.
    assert page.words().count(NASTY) >= 6
    named = comparison(*sweep(axis=NASTY), columns=(FINE._replace(title=NASTY),))
    assert "script" not in Page(page_of(named)).tags


def test_mathematics_in_a_label_is_not_set():
    assert "$x^$" in Page(page_of(methods("$x^$"))).words()
    values = ("$x^$", "crop")
    assert "$x^$" in Page(page_of(comparison(*sweep("strength", values)))).words()


def test_methods_are_drawn_by_row_and_settings_as_curves():
    assert list(figures.draw(methods())) == ["Rows"]
    assert list(figures.draw(comparison(*sweep()))) == ["Against beta"]
    assert list(figures.draw(comparison(*sweep(values=(0.5,))))) == ["Rows"]
    assert figures.draw(comparison(line({"method": "ce"}, [], {0: "no"}))) == {}


def test_dots_are_means_with_deviations_and_diamonds_the_papers():
    axes = figures.draw(methods())["Rows"].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["thanos", "ce"]
    diamonds = [x for x in axes.lines if x.get_marker() == "D"]
    assert [list(x.get_xydata()[0]) for x in diamonds] == [[79.1, 0]]
    low, high = axes.collections[0].get_segments()[0][:, 0]
    deviation = statistics.stdev([80, 90, 95])
    assert (low, high) == pytest.approx((265 / 3 - deviation, 265 / 3 + deviation))


def test_curves_are_of_one_setting_at_a_time():
    lines = [
        line({"method": "spread", "alpha": a, "temperature": t}, [result(a), result(a)])
        for a, t in ((0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (0.5, 0.1), (0.5, 1.0))
    ]
    pictures = figures.draw(comparison(*lines))
    assert list(pictures) == ["Against alpha", "Against temperature"]
    for name, xs, ys, legend in (
        ("Against alpha", [0, 0.5, 1], [0, 50, 100], "spread, temperature 0.5"),
        ("Against temperature", [0.1, 0.5, 1], [50, 50, 50], "spread, alpha 0.5"),
    ):
        axes = pictures[name].axes[0]
        drawn = axes.containers[0].lines[0]
        assert len(axes.containers) == 1
        assert list(drawn.get_xdata()) == xs
        assert list(drawn.get_ydata()) == pytest.approx(ys)
        assert axes.get_xscale() == ("log" if "temperature" in name else "linear")
        texts = [text.get_text() for text in pictures[name].legends[0].get_texts()]
        assert texts == [legend]


def test_words_take_the_order_of_the_table():
    lines = sweep("strength", ("none", "crop", "full")) + sweep("strength", ("none",), "ce")
    axes = figures.draw(comparison(*lines))["Against strength"].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["none", "crop", "full"]


def test_what_was_measured_along_training_is_drawn_as_mean_and_deviation_of_seeds():
    def result(fine, times=3):
        curves = {
            "epoch": [2.0, 4.0, 6.0][:times],
            "validation_fine_accuracy": fine[:times],
            "validation_collapse_index": [0.5, 0.25, 0.125][:times],
        }
        return {"fine_accuracy": fine[-1], "along_training": curves}

    runs = [result([0.5, 0.75, 0.25]), result([0.25, 0.75, 0.5], times=2)]
    lines = line({"method": "supcon"}, runs), line({"method": "ce"}, [])
    drawn = figures.draw(comparison(*lines))
    fine, collapse = drawn["Along training"].axes
    (curve,) = fine.lines
    # The times that all seeds have.
    np.testing.assert_array_equal(curve.get_xydata(), [[2.0, 37.5], [4.0, 75.0]])
    band = fine.collections[0].get_paths()[0].vertices
    deviation = np.std([50, 25], ddof=1)
    np.testing.assert_allclose(sorted({*band[:, 1]})[0], 37.5 - deviation)
    assert np.isclose(band[:, 1], 37.5 + deviation).any()
    np.testing.assert_array_equal(collapse.lines[0].get_xydata(), [[2.0, 0.5], [4.0, 0.25]])
