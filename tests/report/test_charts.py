"""The report's charts: right numbers at the right places, colours and fonts of the page."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from rfquant_jax.report import canvas, charts, timelines
from rfquant_jax.report.sections.freezes import spans
from tests.report.parsed_page import ParsedPage


@pytest.fixture
def axes(monkeypatch):
    """The axes of the figures that were drawn."""
    found, save = [], Figure.savefig

    def keep(self, *arguments, **options):
        found.append(self.axes[0])
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


def ends(container):
    """Both ends of the bars of an errorbar, float[N, 2, 2]."""
    return np.asarray(container.lines[2][0].get_segments())


def test_gains_have_their_intervals_and_a_line_at_zero(axes):
    rows = [("a", 0.4, (-0.5, 1.3), False), ("b", 5.0, (4.0, 6.0), False)]
    charts.gains([*rows, ("a", 0.2, (-0.6, 1.0), True)], "caption")
    equal, pair = axes[0].containers
    np.testing.assert_allclose(ends(equal)[:, :, 0], [[-0.5, 1.3], [4.0, 6.0]])
    np.testing.assert_allclose(ends(pair)[:, :, 0], [[-0.6, 1.0]])
    assert list(equal.lines[0].get_xdata()) == [0.4, 5.0]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["a", "b"]
    assert [round(y) for y in equal.lines[0].get_ydata()] == [0, 1]
    assert axes[0].lines[0].get_xdata() == [0, 0]


def test_the_frontier_is_sorted_by_cost_on_a_logarithmic_axis(axes):
    series = {
        "searched": [(2.0, 90.0, (89.0, 90.5)), (0.5, 80.0, (77.0, 82.0))],
        "uniform": [(1.0, 70.0, (69.0, 71.0))],
    }
    charts.frontier(series, "caption")
    searched, uniform = axes[0].containers
    np.testing.assert_allclose(searched.lines[0].get_xydata(), [[0.5, 80], [2, 90]])
    np.testing.assert_allclose(ends(searched)[:, :, 1], [[77, 82], [89, 90.5]])
    np.testing.assert_allclose(ends(uniform)[:, :, 1], [[69, 71]])
    assert axes[0].get_xscale() == "log"
    assert [c.get_label() for c in axes[0].containers] == ["searched", "uniform"]


def test_divergences_are_lines_where_predicted_and_points_where_measured(axes):
    charts.divergence([(1.0, 0.5), (2.0, 0.1)], [(2.0, 0.12)], "caption")
    predicted, measured = axes[0].lines
    np.testing.assert_allclose(predicted.get_xydata(), [[1, 0.5], [2, 0.1]])
    np.testing.assert_allclose(measured.get_xydata(), [[2, 0.12]])
    assert measured.get_linestyle() == "None"
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"


@pytest.mark.parametrize(("last", "scale"), [(0.5, "linear"), (0.001, "log"), (-1.0, "linear")])
def test_curves_that_fall_far_are_on_a_logarithmic_axis(axes, last, scale):
    series = {"one": [(1, 1.0), (2, last)], "two": [(1, 0.9), (2, 0.8)]}
    timelines.curves("name", series, ylabel="loss", alt="alt", caption="caption")
    assert axes[0].get_yscale() == scale
    np.testing.assert_allclose(axes[0].lines[0].get_xydata(), [[1, 1], [2, last]])
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["one", "two"]


def test_long_curves_are_averaged_in_groups_of_one_size():
    points = [(i, 2.0 * i) for i in range(700)]  # groups of three, the last of one
    thin = timelines.thinned(points)
    assert len(thin) == 234
    assert thin[0] == (1.0, 2.0)
    assert thin[1] == (4.0, 8.0)
    assert thin[-1] == (699.0, 1398.0)
    assert timelines.thinned(points[:300]) == points[:300]


def test_frozen_spans_end_where_a_layer_is_released_or_training_ends():
    def event(epoch, *changes):
        listed = [{"layer": name, "bits": b, "change": change} for name, b, change in changes]
        return {"epoch": epoch, "changes": listed}

    events = [
        event(3, ("a", 2, "frozen"), ("b", 3, "frozen")),
        event(5, ("a", 2, "released")),
        event(7),
        event(9, ("a", 2, "frozen")),
    ]
    assert spans(events, 12) == {"a": [(3, 5, 2), (9, 12, 2)], "b": [(3, 12, 3)]}


def test_freezes_are_bars_over_their_epochs_in_the_color_of_their_bits(axes):
    frozen = {"a": [(3, 5, 2), (9, 12, 2)], "c": [(4, 12, 3)]}
    timelines.freezes(["a", "b", "c"], frozen, 12, "caption")
    boxes = [path.get_extents() for bars in axes[0].collections for path in bars.get_paths()]
    assert [(b.x0, b.x1, round(b.y0 + b.y1) / 2) for b in boxes] == [
        (3, 5, 0),
        (9, 12, 0),
        (4, 12, 2),
    ]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert axes[0].get_xlim() == (0, 12)
    legend = axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["2 bits frozen", "3 bits frozen"]
    colors = [bars.get_facecolor()[0].tolist() for bars in axes[0].collections[:3]]
    assert colors[0] == colors[1] != colors[2]


def test_the_scatter_has_measured_to_the_right_and_predicted_upwards(axes):
    charts.scatter([[-2.0, -1.5], [-1.0, -0.8]], "caption")
    diagonal, points = axes[0].lines
    np.testing.assert_allclose(points.get_xydata(), [[-2, -1.5], [-1, -0.8]])
    np.testing.assert_allclose(diagonal.get_xydata(), [[-2, -2], [-0.8, -0.8]])
    assert axes[0].get_xlabel() == "measured log divergence"


def paint(axes):
    axes.plot([1, 2], [3, 4], color=canvas.SERIES[0], marker="o")
    axes.set_title('id="x" <b> #110101 $a$')


def test_drawings_take_colors_and_fonts_from_the_page():
    text = canvas.draw("name", paint, alt="what <it> shows", caption="caption")
    assert "stroke: var(--series-1)" in text
    assert "fill: var(--ink)" in text
    assert not re.search(r"(fill|stroke): #", text)
    assert "font-family" not in text
    assert not re.search("<metadata|<style|<!--|xlink|xmlns|http", text)
    section = ParsedPage(text).sections[""]
    assert section.pictures == ["what <it> shows"]
    assert 'id="x" <b> #110101 $a$' in section.text  # a user's text stays as it is


def test_two_drawings_share_no_ids():
    first, second = (
        set(re.findall(r' id="([^"]*)"', canvas.draw(name, paint, alt="", caption="")))
        for name in ("one", "two")
    )
    assert first
    assert second
    assert not first & second


def test_a_drawing_is_the_same_each_time():
    one, two = (canvas.draw("name", paint, alt="", caption="") for _ in range(2))
    assert one == two


def test_long_labels_are_cut_and_control_characters_shown():
    assert canvas.label("x" * 50) == "x" * 39 + "\N{HORIZONTAL ELLIPSIS}"
    assert canvas.label("a\nb\x1b") == "a\\nb\\x1b"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0098, 0.0713, [0.01, 0.02, 0.05]),
        (1e-4, 2.0, [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (1.0, 9.0, [1, 2, 5]),
    ],
)
def test_logarithmic_axes_have_plain_numbers(low, high, ticks):
    axes = Figure().add_subplot()
    axes.plot([low, high], [1, 2])
    canvas.log_axis(axes.xaxis, low, high)
    np.testing.assert_allclose(axes.xaxis.get_major_locator()(), ticks)
    assert axes.xaxis.get_major_formatter()(0.02) == "0.02"


def test_a_narrow_logarithmic_axis_has_ticks_at_equal_distances():
    axes = Figure().add_subplot()
    axes.plot([3.1, 4.4], [1, 2])
    canvas.log_axis(axes.xaxis, 3.1, 4.4)
    ticks = axes.xaxis.get_major_locator()()
    assert len([t for t in ticks if 3.1 <= t <= 4.4]) >= 3
    np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0])
