import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from thanos_jax.report import plots


def legend_names(owner):
    return [text.get_text() for text in owner.get_texts()]


RECORDS = [
    {
        "step": step,
        "loss": 3.0 / step,
        "cross_entropy": 1.0 / step,
        "coarse_accuracy": 1 - 1 / step,
        "gradient_norm": 1000.0 / step**2,
        "learning_rate": 1e-4 * step,
    }
    | ({"validation_coarse_accuracy": 0.5} if step == 40 else {})
    for step in range(10, 60, 10)
]


def test_curves_show_every_value_against_its_step():
    figure = plots.curves(RECORDS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "loss",
        "accuracy",
        "gradient norm",
        "learning rate",
    ]
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    np.testing.assert_allclose(lines["loss"].get_xdata(), [10, 20, 30, 40, 50])
    np.testing.assert_allclose(lines["loss"].get_ydata(), [r["loss"] for r in RECORDS])
    assert list(lines["validation coarse accuracy"].get_xdata()) == [40]
    assert lines["validation coarse accuracy"].get_marker() == "o"
    assert legend_names(figure.axes[0].get_legend()) == ["loss", "cross entropy"]
    assert figure.axes[2].get_yscale() == "log"


def test_curves_leave_out_what_is_absent_or_not_finite():
    records = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3}]
    figure = plots.curves([*records, {"step": 4, "loss": None}, {"step": 5, "loss": 2.0}])
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), [1, 5])
    assert axes.get_legend() is None
    empty = plots.curves([])
    assert not empty.axes
    assert [text.get_text() for text in empty.texts] == ["No metrics were recorded."]


def test_curves_need_steps():
    with pytest.raises(ValueError, match=r"records\[1\]: expected a key 'step', got \['loss'\]"):
        plots.curves([{"step": 1}, {"loss": 1.0}])


@pytest.mark.parametrize("count", [1, 2, 10, 11, 20])
def test_map_gives_each_label_one_colour_and_its_name(count):
    labels = np.arange(3 * count) % count
    points = np.random.default_rng(0).normal(size=(3 * count, 2)).astype(np.float32)
    names = [f"class {i}" for i in range(count)]
    figure = plots.embedding_map(points, labels, names, "fine label")
    (dots,) = figure.axes[0].collections
    np.testing.assert_array_equal(dots.get_offsets(), points)
    colors = dots.get_facecolors()[:, :3]
    assert len(np.unique(colors, axis=0)) == count
    (legend,) = figure.legends
    assert legend_names(legend) == names
    keys = [to_rgba(handle.get_color())[:3] for handle in legend.legend_handles]
    np.testing.assert_allclose(np.array(keys)[labels], colors)


def test_palette_is_the_colour_blind_one_up_to_ten():
    figure = plots.embedding_map(np.eye(2), np.array([0, 9]), list("abcdefghij"), "")
    expected = [to_rgba(plots.PALETTE[0])[:3], to_rgba(plots.PALETTE[9])[:3]]
    np.testing.assert_allclose(figure.axes[0].collections[0].get_facecolors()[:, :3], expected)


def test_many_labels_get_a_colour_bar():
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 100
    figure = plots.embedding_map(rng.normal(size=(4000, 2)), labels, range(100), "fine label")
    assert not figure.legends
    assert figure.axes[1].get_xlabel() == "number of the label (of 100)"
    (dots,) = figure.axes[0].collections
    assert len(np.unique(dots.get_facecolors(), axis=0)) == 100
    assert dots.get_rasterized()


def test_names_are_drawn_as_they_are():
    names = ["$x^$", "_hidden", "<b>&", "%d"]
    figure = plots.embedding_map(np.eye(4)[:, :2], np.arange(4), names, "$ title _")
    figure.savefig(io.BytesIO(), format="png")
    assert [name.strip() for name in legend_names(figure.legends[0])] == names


@pytest.mark.parametrize(
    ("points", "labels", "error", "message"),
    [
        (np.ones((3, 3)), np.zeros(3, int), ValueError, r"points: expected \[n, 2\].*\(3, 3\)"),
        (np.array([[0, np.nan]]), np.zeros(1, int), ValueError, "points: .*nan in row 0"),
        (np.ones((3, 2)), np.array([0, 2, 1]), ValueError, "labels 0 to 1, got 2 in row 1"),
        (np.ones((3, 2)), np.zeros(2, int), ValueError, r"labels: .*\(3,\).*\(2,\)"),
        (np.ones((3, 2)), np.zeros(3), TypeError, "labels: .*float64"),
    ],
)
def test_map_refuses_bad_input(points, labels, error, message):
    with pytest.raises(error, match=message):
        plots.embedding_map(points, labels, ["a", "b"], "label")


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (7, 5, 9, 3), (12, 32, 32, 3)])
def test_reconstructions_stand_under_their_inputs(shape):
    rng = np.random.default_rng(0)
    inputs, outputs = rng.uniform(size=(2, *shape)).astype(np.float32)
    outputs[0, 0, 0, 0] = 1.5
    figure = plots.reconstructions(inputs, outputs)
    columns = min(6, shape[0])
    for i in range(shape[0]):
        line, column = divmod(i, columns)
        for row, images in ((2 * line, inputs), (2 * line + 1, outputs)):
            (image,) = figure.axes[row * columns + column].get_images()
            shown = np.asarray(image.get_array())
            np.testing.assert_array_equal(shown, np.clip(images[i], 0, 1).reshape(shown.shape))
            assert image.get_clim() == (0, 1)
    assert sum(len(axes.get_images()) for axes in figure.axes) == 2 * shape[0]


def test_reconstructions_refuse_bad_shapes():
    images = np.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"inputs: expected \[k, h, w, 1 or 3\].*\(2, 4, 4, 2\)"):
        plots.reconstructions(images[..., :2], images[..., :2])
    with pytest.raises(ValueError, match=r"outputs: .*\(2, 4, 4, 3\), got \(1, 4, 4, 3\)"):
        plots.reconstructions(images, images[:1])


def test_every_kind_of_figure_has_a_sentence():
    assert plots.HOW_TO_READ.keys() == {
        "curves", "coarse", "fine", "reconstructions",
        "group_bars", "contingency", "worst_recovered", "recovered_map",
        "kept_share", "dropped_images", "kept_images", "suspected", "suspicion", "noisy_map",
        "audit", "groups_without_truth", "audit_map", "worst_class", "worst_group", "confused",
        "chosen_images",
    }  # fmt: skip
    assert isinstance(plots.curves(RECORDS), Figure)


def test_no_global_figures():
    code = "import sys, thanos_jax.report.html; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"


def test_bars_of_groups_single_out_the_worst():
    figure = plots.group_bars(["a", "b$", "c"], [0.9, 0.25, 1.0], average=0.8)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [90, 25, 100]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[2] != colours[1]
    assert [text.get_text() for text in axes.texts] == ["90.0", "25.0", "100.0"]
    assert list(axes.get_lines()[0].get_xdata()) == [80, 80]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b$", "c"]
    assert axes.get_xlabel() == "accuracy in per cent"
    (axes,) = plots.group_bars(["a"], [0.5], average=0.5, meaning="kept").axes
    assert axes.get_xlabel() == "kept"
    with pytest.raises(ValueError, match=r"accuracies: expected one for each .*got 1 for 2"):
        plots.group_bars(["a", "b"], [1.0], average=1.0)


def test_contingency_counts_and_shades_by_row():
    true, recovered = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 2, 1])
    (axes,) = plots.contingency(true, recovered, ["x", "y"], ["p", "q", "r"]).axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0, 0.25], [0, 1, 0]])
    assert [text.get_text() for text in axes.texts] == ["3", "0", "1", "0", "1", "0"]
    (axes,) = plots.contingency(true, recovered, ["x", "y"], [str(i) for i in range(13)]).axes
    assert not axes.texts
    with pytest.raises(ValueError, match="recovered"):
        plots.contingency(true, recovered, ["x", "y"], ["p", "q"])


def test_suspicion_of_right_and_of_wrong_labels_adds_up_to_100_each():
    values, wrong = np.array([0.0, 0.1, 0.1, 1.0, 0.9]), np.array([0, 0, 0, 1, 1], bool)
    (axes,) = plots.suspicion(values, wrong).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "3 right labels", "2 wrong labels",
    ]  # fmt: skip
    for container, first, last in zip(axes.containers, (100 / 3, 0), (0, 50), strict=True):
        heights = [bar.get_height() for bar in container]
        assert sum(heights) == pytest.approx(100)
        assert (heights[0], heights[-1]) == (pytest.approx(first), pytest.approx(last))
    (axes,) = plots.suspicion(values, np.zeros(5, bool)).axes
    assert len(axes.containers) == 1
    with pytest.raises(ValueError, match=r"wrong: expected bool \[n\]"):
        plots.suspicion(values, wrong[:4])
