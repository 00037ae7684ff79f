"""The picture of docs/which_loss.md, drawn of made maps in place of trained ones."""

import pathlib
import runpy

import numpy as np
import pytest
import report_maps

from thanos_jax.report import folder, plots

pytestmark = pytest.mark.slow
SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "docs" / "which_loss.py"))


def made(spread, number):
    results = {"geometry": {"test": {"within_class_spread": number}}}
    one = report_maps.a_map(spread=spread)
    return folder.Reported({}, results, [], {}, one)


def test_all_maps_have_one_scale_and_say_how_far_a_class_spreads(monkeypatch):
    drawn, draw = [], plots.maps_beside

    def kept(*arguments, **options):
        drawn.append(draw(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(plots, "maps_beside", kept)
    runs = {name: made(0.1 * number, number / 10) for number, name in enumerate(SCRIPT["LOSSES"])}
    picture = SCRIPT["draw"](runs)
    maps = [axes for axes in drawn[0].axes if axes.collections]
    assert len(maps) == len(SCRIPT["LOSSES"]) == 9
    assert maps[1].get_title() == "SupCon (W 0.10)"
    widths = {round(float(np.ptp(axes.get_xlim())), 5) for axes in maps}
    heights = {round(float(np.ptp(axes.get_ylim())), 5) for axes in maps}
    assert len(widths) == len(heights) == 1
    assert all(axes.get_aspect() == 1.0 for axes in maps)
    tops = sorted({round(axes.get_position().y1, 2) for axes in maps})
    assert len(tops) == 3  # three a line
    # Few colours, and the same bytes of the same runs.
    assert picture.mode == "P"
    assert picture.tobytes() == SCRIPT["draw"](runs).tobytes()


def test_its_trainings_run(tmp_path, monkeypatch):
    some = {name: SCRIPT["LOSSES"][name] for name in ("SupCon", "class-conditional InfoNCE")}
    monkeypatch.setitem(SCRIPT["trained"].__globals__, "LOSSES", some)
    runs = SCRIPT["trained"](tmp_path, epochs=2.0)
    assert [one.config["loss"]["alpha"] for one in runs.values()] == [0.5, 1.0]
    assert SCRIPT["draw"](runs).size[0] > 500
