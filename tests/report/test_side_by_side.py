"""Runs beside each other on one page."""

import numpy as np
import pytest
import report_maps as maps

from thanos_jax.report import folder, side_by_side


@pytest.fixture(scope="module")
def made():
    return maps.a_map(60)


def reported(method, image_map=None, **changes):
    results = {"method": method, "dataset": "made", "fine_accuracy": 0.5, "seed": 0}
    results["geometry"] = {"test": {"collapse_index": 0.25, "uniformity": -1.0}}
    config = {"loss": {"alpha": 0.5}, "seed": 0}
    return folder.Reported(config, results | changes, [], {}, image_map)


def test_runs_beside_each_other(made, tmp_path):
    one, two = reported("supcon", made), reported("thanos", made, fine_accuracy=0.75)
    two.config["loss"]["alpha"] = 0.25
    two.results["geometry"] = {"test": {"collapse_index": 0.125, "uniformity": -2.0}}
    path = tmp_path / "beside.html"
    side_by_side.write(path, {"supcon": one, "<b>": two, "third": reported("ce")})
    text = path.read_text(encoding="utf-8").replace("\xa0", " ")
    for words in (
        *("supcon beside &lt;b&gt; beside third", "50.0 %", "75.0 %", "loss.alpha", "0.25"),
        *("0.125", "-2", "Runs without a map: third.", "The maps as a flat picture"),
    ):
        assert words in text, words
    assert "<b>" not in text
    assert '<td class="value">0</td>' not in text  # the seed does not differ
    places = [
        text.index(words) for words in ("50.0 %", "0.125", "All others that differ", "uniformity")
    ]
    assert places == sorted(places)
    side_by_side.write(path, {"a": reported("x"), "b": reported("x")})
    text = path.read_text(encoding="utf-8")
    assert "Nothing differs." in text
    assert "script-src" not in text


def test_a_page_has_so_many_maps_and_says_which_it_leaves_out(made, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "MOST_MAPS", 2)
    monkeypatch.setattr(side_by_side, "figure", lambda maps: None)
    path = tmp_path / "beside.html"
    side_by_side.write(path, {name: reported(name, made) for name in "abc"})
    text = path.read_text(encoding="utf-8")
    assert [entry["title"] for entry in maps.data_of(text)["maps"]] == ["a", "b"]
    assert "Maps of more than 2 runs: c are left out." in text


def test_titles_tell_runs_apart(tmp_path):
    runs = [reported("thanos"), reported("thanos"), reported("supcon")]
    folders = [tmp_path / name for name in ("a/0", "a/1", "b")]
    found = side_by_side.titles(folders, runs)
    assert [title.replace("\\", "/") for title in found] == [
        "thanos (a/0)", "thanos (a/1)", "supcon (b)",
    ]  # fmt: skip
    assert side_by_side.titles(folders[1:], runs[1:]) == ["thanos", "supcon"]
    with pytest.raises(folder.ConfigError, match=r"expected each folder once, got .*b twice"):
        side_by_side.titles([tmp_path / "b", tmp_path / "a" / ".." / "b"], runs[1:])


def test_the_flat_picture_has_one_scale_and_shared_colours(made):
    small = made._replace(layout=made.layout._replace(plane=0.5 * made.layout.plane))
    drawn = side_by_side.figure({"a": made, "b": small})
    left, right = (axes for axes in drawn.axes if axes.collections)
    assert np.ptp(left.get_xlim()) == pytest.approx(np.ptp(right.get_xlim()))
    assert left.get_aspect() == right.get_aspect() == 1
    spans = [np.ptp(axes.collections[0].get_offsets(), axis=0) for axes in (left, right)]
    np.testing.assert_allclose(spans[0], 2 * spans[1], rtol=1e-3)
    other = made._replace(columns=made.columns[1:2])
    assert (
        side_by_side.figure({"a": made, "b": other}).axes[0].get_title().endswith("predicted label")
    )
    assert side_by_side.figure({"a": made._replace(columns=made.columns[3:])}) is None
