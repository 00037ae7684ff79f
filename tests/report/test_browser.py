"""The map of a report in a real browser: real mouse moves and keys, and pixels that are counted."""

import shutil
import time

import numpy as np
import pytest
import report_maps as maps

from thanos_jax.report import cards, confusion, html, side_by_side
from thanos_jax.report.cards import Card
from thanos_jax.report.folder import Reported

pytestmark = pytest.mark.slow


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# Counts what is painted on a canvas, and finds one such place; [count, x, y] in CSS pixels.
PAINTED = """
(canvas) => {
  const { width, height } = canvas;
  const copy = document.createElement("canvas");  // reading slows a canvas down
  [copy.width, copy.height] = [width, height];
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const data = pen.getImageData(0, 0, width, height).data;
  const ratio = width / canvas.clientWidth;
  let count = 0, bright = 0, sum = [0, 0, 0], low = [1e9, 1e9], high = [0, 0];
  for (let i = 0; i < data.length; i += 4) {
    if (!data[i + 3]) continue;
    count += 1;
    bright += data[i + 3] > 150;
    const [x, y] = [(i / 4) % width / ratio, Math.floor(i / 4 / width) / ratio];
    low = [Math.min(low[0], x), Math.min(low[1], y)];
    high = [Math.max(high[0], x), Math.max(high[1], y)];
    for (let c = 0; c < 3; c += 1) sum[c] += data[i + c];
  }
  return { count, bright, sum, low, high };
}
"""


# When dots were painted, the page had loaded, and thumbnails were there; in ms from its opening.
TIMES = """
() => [
  performance.getEntriesByName("map painted")[0].startTime,
  performance.getEntriesByType("navigation")[0].loadEventEnd,
  performance.getEntriesByName("map ready")[0].startTime,
]
"""
# Contrast of text and what is behind it, of each cell of the matrix and line of the cards (WCAG).
CONTRASTS = """
() => {
  const parts = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return [found.slice(0, 3), found.length > 3 ? found[3] : 1];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => {
      const share = c / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const [colour, alpha] = parts(getComputedStyle(node).backgroundColor);
    const below = alpha < 1 ? behind(node.parentElement) : colour;
    return colour.map((c, k) => alpha * c + (1 - alpha) * below[k]);
  };
  return [...document.querySelectorAll(".matrix td, .matrix th, .shots b, .shots span")]
    .filter((node) => node.textContent)
    .map((node) => {
      const [ink, paper] = [parts(getComputedStyle(node).color)[0], behind(node)].map(light);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    });
}
"""


# What of a map's page is outside of the window, or wider than what it lies in.
OUTSIDE = """
() => [...document.querySelectorAll(".map-panel, .map-panel *, .map-frame > *")]
  .filter((node) => node.getClientRects().length)
  .filter((node) => {
    const box = node.getBoundingClientRect();
    const flows = getComputedStyle(node).display !== "inline";
    return box.left < 0 || box.right > innerWidth
      || (flows && node.scrollWidth > node.clientWidth + 1);
  })
  .map((node) => node.className || node.tagName)
"""


# A class is looked for in every kind of label: 20 are dogs, and 20 others are predicted to be.
FOUND = (
    *(("dog", "40 images"), ("image_0001", "10 images"), ("IMAGE_00059.PNG", "1 image")),
    *(("right", "0 images"), ("cow", "0 images")),
)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
    )
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """File name -> path: a report of one map, two runs beside each other, and names that bite."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("one", "two", "nasty", "long", "large", "problems", "counts", "audit")
    found = {name: folder / f"{name}.html" for name in names}
    results = {"method": "thanos", "dataset": "made"}

    audited = [f"{split} image {k}" for split in ("training", "test") for k in range(30)]

    def report(path, image_map, figures=()):
        html.write(
            path,
            config={},
            results=results,
            records=[],
            figures=dict(figures),
            image_map=image_map,
        )

    report(found["one"], maps.a_map(60))
    report(found["problems"], maps.a_map(60, files=np.arange(60) + 100), problems().items())
    report(found["audit"], maps.a_map(60, files=np.array(audited)))
    nasty = np.array([f"{i}{maps.NASTY}.png" for i in range(60)])
    long = np.array([f"image_{i:05}_{'of_a_camera' * 12}.png" for i in range(60)])
    report(found["long"], maps.a_map(60, names=("cat", "dog" * 40, "dog fish " * 20), files=long))
    report(found["nasty"], maps.a_map(60, names=("cat", maps.NASTY, "dogfish"), files=nasty))

    def beside(path, count, side=8):
        runs = {
            title: Reported(
                {"method": title}, {"method": title}, [], {},
                maps.a_map(count, spread=spread, side=side),
            )
            for title, spread in (("supcon", 0.1), ("thanos", 1.0))
        }  # fmt: skip
        side_by_side.write(path, runs)

    beside(found["two"], 60)
    beside(found["large"], 10_000, side=28)
    one = maps.a_map(60)
    columns = [
        column._replace(values=np.arange(60, dtype=np.int32) % 2)
        if column.name == "right or wrong"
        else column
        for column in one.columns
    ]
    side_by_side.write(
        found["counts"],
        {
            title: Reported({"method": title}, {"method": title}, [], {}, image_map)
            for title, image_map in (("supcon", one), ("thanos", one._replace(columns=columns)))
        },
    )
    return found


def problems():
    """What reports show of errors: a table of many classes and cards, with names that bite."""
    labels = np.repeat(np.arange(12), 30)
    found = np.where(np.arange(360) % 5 == 0, (labels + 1) % 12, labels)
    made = [Card(f"{k}{maps.NASTY}.png", ("cat", maps.NASTY), "wrong", k < 4) for k in range(12)]
    return {
        "Confused": (confusion.html(labels, found, [f"class {k}" for k in range(12)]), "Look."),
        "Cards": (cards.html(maps.pictures(range(12)), made), "Look."),
    }


class Opened:
    """A page as a reader has it; what it says on the console or asks for is an error."""

    def __init__(self, browser, path, *, width=1280, scheme="light", calm=True, touch=False):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce" if calm else "no-preference",
            has_touch=touch,
        )
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        started = time.perf_counter()
        self.page.goto(path.as_uri())
        self.seconds = time.perf_counter() - started
        # Painted when the page has loaded, thumbnails or not.
        self.at_load = self.painted()
        self.page.wait_for_selector("#map[data-ready]")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        urls = [url[:60] for url in self.asked if not url.startswith(("file:", "data:"))]
        pages = [url for url in self.asked if url.startswith("file:")]
        self.context.close()
        if error == (None, None, None):
            assert (self.said, urls, len(pages)) == ([], [], 1)

    def canvas(self, view=0, top=True):
        which = "canvas + canvas" if top else "canvas:first-child"
        return self.page.locator(f"[data-view] .map-frame > {which}").nth(view)

    def painted(self, view=0, top=False):
        return self.canvas(view, top).evaluate(PAINTED)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def wait_for(self, selector, words):
        """The page's policy forbids playwright's own way of waiting for text."""
        deadline = time.monotonic() + 20
        while self.page.locator(selector).inner_text() != words:
            assert time.monotonic() < deadline, self.page.locator(selector).inner_text()
            time.sleep(0.05)

    def hover_somewhere(self, view=0):
        """Moves over the map until an image is shown; returns its place in the window."""
        box, seen = self.canvas(view).bounding_box(), self.painted(view)
        for share in np.linspace(0.02, 0.98, 60):
            x = seen["low"][0] + share * (seen["high"][0] - seen["low"][0])
            y = seen["low"][1] + share * (seen["high"][1] - seen["low"][1])
            self.page.mouse.move(box["x"] + x, box["y"] + y)
            if self.text("[data-image]").startswith("image_"):
                return box["x"] + x, box["y"] + y
        raise AssertionError("no image is shown wherever the mouse goes")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["one", "two"])
def test_dots_are_painted_where_the_images_are(browser, pages, name, width, scheme):
    with Opened(browser, pages[name], width=width, scheme=scheme) as opened:
        # 60 dots of some pixels each, and no more.
        assert 60 * 8 < opened.at_load["count"] < 60 * 300
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        for view in range(1 + (name == "two")):
            seen, box = opened.painted(view), opened.canvas(view).bounding_box()
            assert min(seen["low"]) > 3
            assert seen["high"][0] < box["width"] - 3
            assert seen["high"][1] < box["height"] - 3
        if name == "two":
            spans = [
                max(seen["high"][k] - seen["low"][k] for k in (0, 1))
                for seen in map(opened.painted, (0, 1))
            ]
            # Both fit; the run that spreads more fills more. Not stretched, none fills all.
            assert spans[1] < max(opened.canvas().bounding_box()[k] for k in ("width", "height"))
            assert 1.02 * spans[0] < spans[1]


@pytest.mark.parametrize("touch", [False, True])
@pytest.mark.parametrize("name", ["two", "long"])
def test_what_is_said_of_an_image_fits_a_narrow_window(browser, pages, name, touch):
    with Opened(browser, pages[name], width=390, touch=touch) as opened:
        for view in range(1 + (name == "two")):
            opened.canvas(view).scroll_into_view_if_needed()
            place = opened.hover_somewhere(view)
            if touch:
                opened.page.touchscreen.tap(*place)
                assert "Nearest images" in opened.text("[data-image]")
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
            assert opened.page.evaluate(OUTSIDE) == []
            opened.canvas(view).focus()
            opened.page.keyboard.press("Escape")


def test_hover_click_and_escape(browser, pages):
    with Opened(browser, pages["one"]) as opened:
        place = opened.hover_somewhere()
        shown = opened.text("[data-image]")
        assert "fine label" in shown
        assert "suspicion" in shown
        assert "Nearest" not in shown
        number = int(shown[6:11])
        assert f"\n{('cat', 'dog', 'dogfish')[number % 3]}\n" in shown
        # Its thumbnail has the colour that tells its number; WebP keeps so small ones exactly.
        pixel = opened.page.locator("[data-image] canvas").first.evaluate(
            "(c) => [...c.getContext('2d').getImageData(3, 3, 1, 1).data]"
        )
        assert pixel == [number, 0, 0, 255]
        opened.page.mouse.click(*place)
        assert "Nearest images" in opened.text("[data-image]")
        near = opened.page.locator("[data-image] .map-thumb")
        assert near.count() == 8
        titles = near.evaluate_all("(nodes) => nodes.map((node) => node.title.slice(0, 11))")
        assert titles == [f"image_{(number + k) % 60:05}" for k in range(1, 9)]
        near.nth(2).click()
        assert opened.text(".map-name") == f"image_{(number + 3) % 60:05}.png"
        opened.canvas().focus()
        opened.page.keyboard.press("Escape")
        assert opened.text("[data-image]").startswith("Point at a dot")


def test_keys_walk_pin_zoom_and_speak(browser, pages):
    with Opened(browser, pages["one"]) as opened:
        status = opened.page.locator("[data-status]")
        assert status.get_attribute("aria-live") == "polite"
        opened.canvas().focus()
        opened.page.keyboard.press("ArrowRight")
        first = status.inner_text()
        assert first.startswith("image_")
        assert "; fine label " in first
        opened.page.keyboard.press("ArrowLeft")
        assert status.inner_text() != first
        opened.page.keyboard.press("n")
        following = int(status.inner_text()[6:11])
        opened.page.keyboard.press("p")
        assert (int(status.inner_text()[6:11]) + 1) % 60 == following
        opened.page.keyboard.press("Enter")
        assert "Nearest images" in opened.text("[data-image]")
        before = opened.painted()
        opened.page.keyboard.press("+")
        assert opened.painted()["count"] != before["count"]
        opened.page.keyboard.press("0")
        assert opened.painted() == before
        opened.page.keyboard.press("s")
        opened.page.keyboard.press("n")
        opened.page.keyboard.press("s")
        assert opened.text("[data-chosen] h4").startswith("2 images")
        opened.page.keyboard.press("/")
        assert opened.page.evaluate("document.activeElement.type") == "search"


@pytest.mark.parametrize("mode", ["lasso", "box"])
def test_what_is_drawn_around_is_listed_and_copied(browser, pages, mode):
    with Opened(browser, pages["two"]) as opened:
        opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened.page.locator(f"[data-mode={mode}]").click()
        box, seen = opened.canvas(1).bounding_box(), opened.painted(1)
        everything = seen["bright"]
        left, top = (box[k] + seen["low"][i] - 4 for i, k in enumerate("xy"))
        right, bottom = (box[k] + seen["high"][i] + 4 for i, k in enumerate("xy"))
        middle = (left + right) / 2
        opened.page.mouse.move(left, top)
        opened.page.mouse.down()
        for x, y in ((middle, top), (middle, bottom)) + ((left, bottom),) * (mode == "lasso"):
            opened.page.mouse.move(x, y, steps=6)
        opened.page.mouse.up()
        words = opened.text("[data-chosen] h4")
        count = int(words.split()[0])
        assert 5 < count < 55
        assert opened.page.locator("[data-chosen] .map-thumb").count() == count
        # In both maps the others are dimmed, and nothing has gone.
        for view in (0, 1):
            assert 0 < opened.painted(view)["bright"] < everything
            assert opened.painted(view)["count"] > 60 * 8
        opened.page.get_by_role("button", name="Copy names").click()
        opened.wait_for("[data-note]", f"{count} copied")
        names = opened.page.evaluate("navigator.clipboard.readText()").split("\n")
        assert len(names) == len(set(names)) == count
        assert all(name.startswith("image_") for name in names)
        opened.page.get_by_role("button", name="Clear").click()
        assert opened.painted(1) == seen


def test_colours_layouts_pictures_and_search(browser, pages):
    with Opened(browser, pages["one"]) as opened:
        page, first = opened.page, opened.painted()
        for name in ("predicted label", "right or wrong", "suspicion"):
            page.locator("[data-colour]").select_option(label=name)
            now = opened.painted()
            assert now["sum"] != first["sum"], name
            assert now["low"] == first["low"]
        page.locator("[data-layout]").select_option(label="distances (PCA)")
        moved = opened.painted()
        assert (moved["low"], moved["high"]) != (first["low"], first["high"])
        page.locator("[data-pictures]").check()
        assert opened.painted()["count"] > 1.5 * moved["count"]
        page.locator("[data-pictures]").uncheck()
        for query, count in FOUND:
            page.locator("[data-search]").fill(query)
            opened.wait_for("[data-chosen] h4", f"{count}: found by “{query}”")
        page.locator("[data-search]").fill("")
        page.locator("[data-chosen]").wait_for(state="hidden")
        page.locator("[data-colour]").select_option(label="fine label")
        page.locator(".map-key", has_text="dogfish").click()
        assert opened.text("[data-chosen] h4") == "20 images: fine label dogfish"


def test_maps_of_the_same_images_are_linked(browser, pages):
    with Opened(browser, pages["two"]) as opened:
        assert opened.painted(1, top=True)["count"] == 0
        opened.hover_somewhere(0)
        assert opened.painted(1, top=True)["count"] > 20
        opened.page.mouse.move(5, 5)
        assert opened.painted(1, top=True)["count"] == 0


def test_linked_maps_have_a_legend_each_where_their_counts_differ(browser, pages):
    with Opened(browser, pages["counts"]) as opened:
        legends = opened.page.locator("[data-legend]")
        assert [legends.nth(k).locator("button").count() for k in (0, 1)] == [3, 0]
        opened.page.locator("[data-colour]").select_option(label="right or wrong")
        counts = [legends.nth(k).locator("button .quiet").all_inner_texts() for k in (0, 1)]
        assert [sum(map(int, one)) for one in counts] == [60, 60]
        assert counts[0] != counts[1]


def test_a_whole_name_finds_its_image_alone(browser, pages):
    with Opened(browser, pages["audit"]) as opened:
        for query, count in (("test image 2", "1 image"), ("test image", "30 images"),
                             ("image 29", "2 images")):  # fmt: skip
            opened.page.locator("[data-search]").fill(query)
            opened.wait_for("[data-chosen] h4", f"{count}: found by “{query}”")
        opened.page.get_by_role("button", name="Copy names").click()
        opened.wait_for("[data-note]", "2 copied")


def test_motion_is_for_those_who_want_it(browser, pages):
    for calm in (True, False):
        with Opened(browser, pages["one"], calm=calm) as opened:
            opened.page.evaluate(
                "() => { window.frames_seen = 0; const real = requestAnimationFrame;"
                "window.requestAnimationFrame = (f) => { window.frames_seen += 1;"
                "return real(f); }; }"
            )
            opened.page.locator("[data-layout]").select_option(label="distances (PCA)")
            opened.page.wait_for_timeout(700)
            assert (opened.page.evaluate("window.frames_seen") == 0) == calm


def test_names_that_bite_stay_text(browser, pages):
    with Opened(browser, pages["nasty"]) as opened:
        opened.canvas().focus()
        opened.page.keyboard.press("ArrowRight")
        assert maps.NASTY in opened.page.locator(".map-name").text_content()
        isolated = opened.page.locator(".map-name").evaluate(
            "(node) => node.tagName + getComputedStyle(node).unicodeBidi"
        )
        assert isolated == "BDIisolate"
        assert opened.page.locator("script").count() == 2
        assert opened.page.locator(".map-key").nth(1).text_content().startswith(maps.NASTY)


def test_ten_thousand_images_open_and_answer_at_once(browser, pages):
    assert pages["large"].stat().st_size < 10e6
    opens = []
    for _ in range(5):
        with Opened(browser, pages["large"]) as opened:
            opens.append(opened.page.evaluate(TIMES))
            assert opened.seconds < 5
    with Opened(browser, pages["large"]) as opened:
        assert opened.at_load["count"] > 1000  # a collapsed run
        assert opened.painted(1)["count"] > 20_000
        box = opened.canvas(1).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        # What the script takes for a move, without the travel between this process and its own.
        opened.page.evaluate(
            """() => {
              window.took = [];
              let began = 0;
              addEventListener("pointermove", () => { began = performance.now(); }, true);
              addEventListener("pointermove", () => window.took.push(performance.now() - began));
            }"""
        )
        for k in range(60):
            opened.page.mouse.move(x + 2 * k, y + k)
        took = opened.page.evaluate("window.took")
    # By the browser's own clock, and of several: others work on this machine too.
    painted, loaded, ready = np.median(opens, axis=0)
    print(f"\npainted in {painted:.0f} ms, loaded in {loaded:.0f}, thumbnails in {ready:.0f}; "
          f"hover {np.median(took):.1f} ms median, {np.max(took):.1f} ms at most")  # fmt: skip
    assert painted < loaded < 1000
    assert len(took) >= 50
    assert np.median(took) < 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_what_went_wrong_is_legible(browser, pages, width, scheme):
    with Opened(browser, pages["problems"], width=width, scheme=scheme) as opened:
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert min(contrasts) > 4.5
        shots = page.locator(".shots img")
        assert shots.count() == 12
        # All are there, and in their proportions.
        assert shots.evaluate_all(
            "(all) => all.every((one) => one.naturalWidth === 8 && one.width === one.height)"
        )
        # A card's words are in it, whatever they hold.
        assert page.locator("script").count() == 2
        assert maps.NASTY in page.locator(".shots li").first.inner_text()
        assert page.locator(".shots bdi").first.evaluate(
            "(node) => getComputedStyle(node).unicodeBidi === 'isolate'"
        )
        # A table that is wider than a phone scrolls by key.
        region = page.get_by_role("region", name="Confusion matrix")
        region.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        wide = region.evaluate("(node) => node.scrollWidth > node.clientWidth")
        assert (region.evaluate("(node) => node.scrollLeft") > 0) == wide == (width == 390)
        for query, count in (("test image 107", 1), ("107", 1), ("10", 0)):
            page.locator("[data-search]").fill(query)
            words = f"{count} image{'' if count == 1 else 's'}: found by “{query}”"
            opened.wait_for("[data-chosen] h4", words)


def test_paper_is_white_and_does_not_stretch_the_map(browser, pages):
    with Opened(browser, pages["one"], scheme="dark") as opened:
        opened.page.emulate_media(media="print")
        ink = opened.page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(31, 35, 40)"
        # A page of paper is narrower than the window for which the map was painted.
        fit = opened.canvas(top=False).evaluate("(c) => getComputedStyle(c).objectFit")
        assert fit == "contain"
        assert opened.page.locator(".map-tools").is_hidden()
