"""The pictures of docs/findings.py, drawn of made runs in place of trained ones."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from thanos_jax.report import plots

pytestmark = pytest.mark.slow
SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "docs" / "findings.py"))


def bars(figure):
    (axes,) = figure.axes
    line = axes.lines[0].get_xdata()[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    return names, [bar.get_width() for bar in axes.patches], line


def test_bars_are_the_results(tmp_path):
    counts = {"a": {"accuracy": 0.5, "train_images": 30}, "b": {"accuracy": 1.0, "train_images": 9}}
    made = {"groups": counts, "coarse_accuracy": 0.75, "fine_labels": counts, "kept_images": 13}
    made["kept_share"] = {"a": 0.2, "b": 7 / 9}
    (tmp_path / "results.json").write_text(json.dumps(made))
    names, widths, line = bars(SCRIPT["groups"](tmp_path))
    assert (names, widths, line) == (["a (30)", "b (9)"], [50, 100], 75)
    names, widths, line = bars(SCRIPT["coreset"](tmp_path))
    assert names == ["a (30)", "b (9)"]
    np.testing.assert_allclose([*widths, line], [20, 700 / 9, 1300 / 39])


def test_the_labels_suspected_most_are_shown_with_the_image_they_are_of(tmp_path):
    digits, right = SCRIPT["load_digits"](return_X_y=True)
    names = np.random.default_rng(0).permutation(len(right))[:60]
    right = right[names]
    suspicion = np.linspace(0, 1, 60)
    suggested = right.copy()
    suggested[-3] = (right[-3] + 5) % 10  # a wrong one
    given = (right + 1) % 10
    np.savez(
        tmp_path / "labels.npz", right=right, given=given, suggested=suggested,
        suspicion=suspicion, filenames_of_train=names,
    )  # fmt: skip
    shown = SCRIPT["wrong_labels"](tmp_path).axes
    assert len(shown) == 24
    for axes, row in zip(shown, range(59, 35, -1), strict=True):
        image = np.asarray(axes.images[0].get_array())
        np.testing.assert_array_equal(image.ravel(), digits[names[row]])
        assert axes.get_title() == f"{given[row]} → {suggested[row]}"
        assert axes.title.get_color() == (plots.PALETTE[2] if row == 57 else plots.INK)
