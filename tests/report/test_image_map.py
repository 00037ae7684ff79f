"""Maps of images: what they hold, their file, and the page that shows them."""

import base64
import hashlib
import re

import numpy as np
import pytest
import report_maps as maps

from thanos_jax.report import html, image_map, map_page
from thanos_jax.workdir import WorkdirError


@pytest.fixture(scope="module")
def made():
    return maps.a_map(60)


def array_of(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_a_map_has_the_rows_of_its_layout():
    whole = maps.layout(20)
    layout = whole._replace(mapped=np.array([3, 9]), points=whole.points[:2])
    labels = np.arange(20) % 2
    columns = [image_map.classes("c", labels, ["a", "b"]), image_map.score("s", np.arange(20.0))]
    for names, named, expected in (
        (None, False, ["3", "9"]),
        (np.arange(100, 120), False, ["103", "109"]),
        (np.array([f"{k}.png" for k in range(20)]), True, ["3.png", "9.png"]),
    ):
        one = image_map.of_images("train", layout, columns, maps.pictures, names=names)
        assert (one.size, one.named, one.files.tolist()) == (20, named, expected)
        assert [column.values.tolist() for column in one.columns] == [[1, 1], [3.0, 9.0]]
        np.testing.assert_array_equal(maps.cells(one.sprite)[:2, 0, 0, 0], [3, 9])
    with pytest.raises(ValueError, match=r"columns: expected one length, got \[19, 20\]"):
        image_map.of_images("train", layout, columns, maps.pictures, names=np.arange(19))
    mapped = layout._replace(mapped=np.array([3, 20]))
    with pytest.raises(ValueError, match=r"layout\.mapped: expected rows below 20, got 20"):
        image_map.of_images("train", mapped, columns, maps.pictures)
    with pytest.raises(ValueError, match=r"c: .*labels 0 to 1, got 2"):
        image_map.classes("c", np.array([0, 2]), ["a", "b"])


def test_a_map_is_read_as_it_was_written(made, tmp_path):
    path = tmp_path / "map.npz"
    image_map.write(path, made)
    again = image_map.read(path)
    assert (again.split, again.size, again.named, again.sprite) == (
        *(made.split, made.size, made.named), made.sprite,
    )  # fmt: skip
    np.testing.assert_array_equal(again.files, made.files)
    for one, other in zip(again.layout, made.layout, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    for one, other in zip(again.columns, made.columns, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert (one.name, one.names, one.reading) == (other.name, other.names, other.reading)
    assert map_page.part({"run": again}) == map_page.part({"run": made})
    assert [file.name for file in tmp_path.iterdir()] == ["map.npz"]
    for content in (b"", path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(WorkdirError, match=r"map\.npz cannot be read"):
            image_map.read(path)


def test_a_page_has_the_data_and_lets_its_own_script_run_alone(made, tmp_path):
    path = tmp_path / "report.html"
    results = {"method": "thanos", "dataset": "made"}
    html.write(path, config={}, results=results, records=[], figures={}, image_map=made)
    page = path.read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1 == page.count("<script>")
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy.endswith(f"; script-src 'sha256-{digest}'")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page.replace(scripts[0], ""))
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(|eval\(|innerHTML", scripts[0])
    data = maps.data_of(page)
    (entry,), (images,) = data["maps"], data["sets"]
    assert (data["layout"], data["colour"]) == (map_page.LAYOUTS["points"], "fine label")
    assert (images["files"][1], images["count"], images["named"]) == ("image_00001.png", 60, True)
    for layout, expected in zip(entry["layouts"], (made.layout.points, made.layout.plane),
                                strict=True):  # fmt: skip
        turned = array_of(layout["xy"], "<f4").reshape(-1, 2)
        # Turned towards itself, so only moved.
        np.testing.assert_allclose(turned, expected - expected.mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(
        array_of(entry["neighbours"], "<i4").reshape(60, 8), made.layout.neighbours
    )
    for column, expected in zip(entry["columns"], made.columns, strict=True):
        dtype = "<i4" if expected.names else "<f4"
        np.testing.assert_array_equal(array_of(column["values"], dtype), expected.values)
        assert column["names"] == (list(expected.names) or None)
        assert len(column.get("colours", ())) == len(expected.names)
    (picture,) = re.findall(r'src="data:image/webp;base64,([^"]*)"', page)
    assert base64.b64decode(picture) == made.sprite.data
    assert "All 60 test images." in page
    # For print, and without scripts: of the column that says how to read it.
    assert page.count("embeddings by fine label") == 2
    assert "embeddings by predicted label" not in page


def test_names_of_files_and_classes_stay_text(tmp_path):
    files = np.array([f"{k}{maps.NASTY}" for k in range(60)])
    one = maps.a_map(60, names=("cat", maps.NASTY, "dogfish"), files=files)
    part = map_page.part({maps.NASTY: one})
    assert "alert(1)</script>" not in part.html
    assert part.html.count("<script") == 2
    assert "\u202e" not in part.html.replace("<bdi>", "").split('aria-label="Map of images, ')[0]
    data = maps.data_of(part.html)
    assert data["sets"][0]["files"] == files.tolist()
    assert data["maps"][0]["columns"][0]["names"][1] == maps.NASTY
    assert data["maps"][0]["title"] == maps.NASTY
    path = tmp_path / "report.html"
    results = {"method": maps.NASTY}
    html.write(path, config={}, results=results, records=[], figures={}, image_map=one)
    assert path.read_text(encoding="utf-8").count("<script") == 2


def test_what_was_left_out_or_made_smaller_is_said(made):
    drawn = made._replace(size=500, sprite=made.sprite._replace(asked=32))
    text = map_page.part({"run": drawn}).html
    assert "60 of 500 test images, drawn at random." in text
    assert "Thumbnails have 8 pixels and not 32, to keep the page small." in text


def test_more_images_than_t_sne_takes_have_one_layout(made):
    flat = made._replace(layout=made.layout._replace(points=made.layout.plane))
    data, _ = map_page.payload({"run": flat})
    assert [layout["name"] for layout in data["maps"][0]["layouts"]] == ["distances (PCA)"]
    assert data["layout"] == "distances (PCA)"


def test_maps_of_the_same_images_share_them_and_are_turned_alike(made):
    # A quarter turn and a mirror: what principal components leave open.
    mirror = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    other = made._replace(layout=made.layout._replace(plane=0.5 * made.layout.plane @ mirror))
    apart = made._replace(files=np.roll(made.files, 1))
    data, sprites = map_page.payload({"a": made, "b": other, "c": apart})
    assert [entry["set"] for entry in data["maps"]] == [0, 0, 1]
    assert len(data["sets"]) == len(sprites) == 2
    assert data["layout"] == "distances (PCA)"
    first, second = (
        array_of(entry["layouts"][1]["xy"], "<f4").reshape(-1, 2) for entry in data["maps"][:2]
    )
    # At one scale: half as large stays so.
    np.testing.assert_allclose(second, 0.5 * first, atol=1e-5)
    text = map_page.part({"a": made, "b": other, "c": apart}).html
    assert "a, b: All 60 test images." in text
    assert "Maps of the same images are linked. All maps have one scale." in text


def test_turning_keeps_distances_and_comes_as_near_as_it_can():
    rng = np.random.default_rng(0)
    points, goal = rng.normal(size=(2, 30, 2)).astype(np.float32)
    turned = map_page.turned(points, goal).astype(np.float64)

    def distances(xy):
        return np.linalg.norm(xy[:, None] - xy[None], axis=-1)

    np.testing.assert_allclose(distances(turned), distances(points.astype(np.float64)), atol=1e-5)
    centred = (x - x.mean(axis=0) for x in (points.astype(np.float64), goal.astype(np.float64)))
    from_, to = centred
    best = min(
        np.sum((from_ @ (mirror @ np.array([[c, -s], [s, c]])) - to) ** 2)
        for angle in np.linspace(0, 2 * np.pi, 2001)
        for c, s in [(np.cos(angle), np.sin(angle))]
        for mirror in (np.eye(2), np.diag([1.0, -1.0]))
    )
    assert np.sum((turned - to) ** 2) == pytest.approx(best, rel=1e-4)
