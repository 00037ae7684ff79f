import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from thanos_jax.report import html, plots

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input", "path", "use", "rect"}
NASTY = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """Collects tags, attributes and text, and holds tags to being closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text, self.open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def figures(name="cat"):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(3, 8, 8, 3))
    labels = np.arange(40) % 2
    points = rng.normal(size=(40, 2))
    return {
        "Training": (plots.curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]), "Look."),
        "Map": (plots.embedding_map(points, labels, [name, "dog"], name), "Near is alike."),
        "Map again": (plots.embedding_map(points, labels, [name, "dog"], name), "Once more."),
        "Pictures": (plots.reconstructions(images, images), "Two rows."),
    }


RESULTS = {
    "dataset": "digits",
    "method": "thanos",
    "seed": 12345,
    "steps": 4321,
    "train_seconds": 125.3,
    "coarse_accuracy": 0.987,
    "fine_accuracy": 0.5432,
    "geometry": {
        "train": {"collapse_index": 0.111, "uniformity": -1.5},
        "test": {"collapse_index": 0.222},
    },
    "versions": {"jax": "0.10.2"},
}
CONFIG = {"seed": 12345, "model": {"vit": {"patch": 4}}, "data": {"data_dir": NASTY}}


def render(tmp_path, **changes):
    given = {
        "config": CONFIG,
        "results": RESULTS,
        "records": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 0.125}],
        "figures": figures(),
    }
    path = tmp_path / "report.html"
    html.write(path, **(given | changes))
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_nothing_comes_from_elsewhere(tmp_path):
    text, page = render(tmp_path)
    links = [
        (tag, name, value)
        for tag, name, value in page.attributes
        if name.rpartition(":")[2] in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert any(name == "xlink:href" for _, name, _ in links)
    for tag, name, value in links:
        assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#")
    assert "@import" not in text
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    assert ("meta", "content", html._POLICY) in page.attributes
    assert html._POLICY.startswith("default-src 'none';")


def test_names_inside_pictures_are_unique_and_found(tmp_path):
    text, page = render(tmp_path)
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    targets = {t for t in targets if not t.startswith("ata:")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets
    assert targets <= set(page.ids)


def test_everything_is_shown(tmp_path):
    _, page = render(tmp_path)
    words = page.words()
    for expected in (
        "thanos on digits",
        "98.7 %",
        "54.3 %",
        "4,321",
        "12345",
        "2 min 5 s",
        "0.111",
        "0.222",
        "-1.5",
        "model.vit.patch",
        "0.125",
        "Near is alike.",
        "loss",  # a legend or title inside a picture stays text
        "dog",
        NASTY,
    ):
        assert expected in words.replace("\xa0", " "), expected
    assert "name train test meaning" in words
    assert words.count("share of the variance that lies within coarse classes") == 2
    assert page.tags.count("svg") == 4
    assert page.tags.count("figcaption") == 4
    assert page.tags.count("details") == 2
    assert ("meta", "name", "viewport") in page.attributes


def test_every_value_is_escaped(tmp_path):
    text, page = render(
        tmp_path,
        config={NASTY: {NASTY: NASTY}, "list": [NASTY]},
        results={
            "method": NASTY,
            "dataset": NASTY,
            NASTY: NASTY,
            "geometry": {NASTY: {NASTY: 1.0}},
            "other": {NASTY: NASTY},
            "steps": NASTY,
            "seed": NASTY,
            "train_seconds": NASTY,
            "fine_accuracy": NASTY,
        },
        records=[{"step": 1, NASTY: NASTY}],
        figures={NASTY: (figures(NASTY)["Map"][0], NASTY)},
    )
    assert "<script" not in text
    assert "script" not in page.tags
    assert page.words().replace(" ", "").count(NASTY.replace(" ", "")) > 15
    assert ("div", "aria-label", NASTY) in page.attributes


def test_colours_follow_the_page(tmp_path):
    text, _ = render(tmp_path)
    assert plots.INK not in text
    assert "currentColor" in text
    assert "prefers-color-scheme: dark" in text
    # A white sheet behind a picture would glare on a dark page.
    assert "fill: #ffffff" not in text


@pytest.mark.parametrize(
    "results", [{}, {"dataset": "digits"}, {"geometry": {}}, {"geometry": {"test": {}}}]
)
def test_missing_figures_and_numbers(tmp_path, results):
    _, page = render(tmp_path, config={}, results=results, records=[], figures={})
    assert "svg" not in page.tags
    assert ("No results were given." in page.words()) == (not results)


def test_values_that_json_reads_back(tmp_path):
    results = {"a": None, "b": True, "c": float("nan"), "d": float("inf"), "e": [1, 2], "f": 1e-9}
    results |= {"g": np.float32(0.25), "h": np.int64(1234), "train_seconds": 7300, "seconds": 2.34}
    _, page = render(tmp_path, results=results)
    words = page.words().replace("\xa0", " ")
    for shown in ("None", "True", "nan", "inf", "[1, 2]", "1e-09", "0.25", "1,234", "2 h 1 min"):
        assert shown in words
    assert "2.3 s" in words


def test_same_arguments_same_bytes(tmp_path):
    assert render(tmp_path)[0] == render(tmp_path)[0]


def test_a_failed_report_leaves_the_old_one(tmp_path):
    old, _ = render(tmp_path)
    broken = figures()["Map"][0]
    broken.axes[0].set_title("$x^$")  # matplotlib cannot set this formula
    with pytest.raises(ValueError, match=r"x\^"):
        render(tmp_path, figures={"Broken": (broken, "")})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_letters_that_matplotlib_cannot_measure(tmp_path):
    _, page = render(tmp_path, figures=figures("猫"))
    assert "猫" in page.words()


@pytest.mark.parametrize("name", ["page.css", "map.css"])
def test_browsers_of_2022_keep_every_rule(name):
    look = (pathlib.Path(html.__file__).parent / name).read_text(encoding="utf-8")
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", look, flags=re.DOTALL))
    assert len(rules) > 20
    for selectors, body in rules:
        # What is within brackets is one selector: a list outside them is dropped as a whole.
        flat = selectors
        while (shorter := re.sub(r"\([^()]*\)", "", flat)) != flat:
            flat = shorter
        assert ":has" not in selectors or "," not in flat, selectors
        prefixed = body.count("-webkit-print-color-adjust: exact")
        assert body.count("print-color-adjust: exact") == 2 * prefixed, body
