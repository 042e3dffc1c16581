"""Pictures: right numbers in them, readable for small and for large networks."""

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from rfquant_jax.report import plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], Figure.savefig

    def keep(self, *arguments, **options):
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.mark.parametrize("layers", [1, 8, 100])
def test_bits_are_written_into_their_cells(drawn, tmp_path, layers):
    rng = np.random.default_rng(0)
    winners = {f"{b}G": rng.integers(2, 7, (layers, 2)) for b in (30, 20)}
    names = [f"layer{i}.conv" for i in range(layers)]
    plots.bit_widths(tmp_path / "b.png", winners, names)
    axes = drawn[0].axes[0]
    texts = [int(text.get_text()) for text in axes.texts]
    expected = [row for c in winners.values() for row in (c[:, 0], c[:, 1])]
    np.testing.assert_array_equal(np.reshape(texts, (4, layers)), expected)
    assert axes.get_yticklabels()[0].get_text() == "30G  weights"
    assert [t.get_text() for t in axes.get_xticklabels()] == names
    assert cv2.imread(str(tmp_path / "b.png")).shape[1] >= 150 * 0.28 * layers


def test_sensitivities_have_a_color_each_and_gaps_none(drawn, tmp_path):
    growth = {
        "weights": {"a": {4: 0.0, 3: 0.5}, "b": {4: 0.0, 3: 1.0, 2: 2.0}},
        "activations": {"a": {4: 0.0, 3: -1.0}, "b": {4: 0.0, 3: 0.0, 2: 0.0}},
    }
    plots.sensitivity(tmp_path / "s.png", growth, ["a", "b"])
    axes = drawn[0].axes[0]
    values = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    nan = np.nan
    np.testing.assert_array_equal(values, [[0, 0], [0.5, 1], [nan, 2], [0, 0], [-1, 0], [nan, 0]])
    assert axes.images[0].get_clim() == (-2.0, 2.0)  # zero in the middle


def test_the_frontier_shows_every_series_and_full_precision(drawn, tmp_path):
    series = {
        "uniform": [(2.0, 60.0, 55.0, 64.0), (1.0, 50.0, 45.0, 55.0)],
        "searched": [(1.5, 62.0, 58.0, 62.0)],
        "curve": [(1.0, 51.0, 50.0, 53.0)],
    }
    plots.frontier(tmp_path / "f.png", series, 70.0, "size_mb")
    axes = drawn[0].axes[0]
    found = {c.get_label(): c for c in axes.containers}
    assert list(found) == list(series)
    points = {name: c.lines[0].get_xydata().tolist() for name, c in found.items()}
    assert points["uniform"] == [[1.0, 50.0], [2.0, 60.0]]
    assert points["searched"] == [[1.5, 62.0]]
    assert points["curve"] == [[1.0, 51.0]]
    bars = found["uniform"].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in bars] == [[45.0, 55.0], [55.0, 64.0]]
    assert found["searched"].lines[0].get_linestyle() == "None"
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["full precision"]) == [70.0, 70.0]
    assert axes.get_xlabel() == "size (MB)"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_frontier_may_be_without_full_precision_and_over_latencies(drawn, tmp_path):
    plots.frontier(tmp_path / "f.png", {"uniform": [(2.0, 60.0, 60.0, 60.0)]}, None, "latency_ms")
    axes = drawn[0].axes[0]
    assert axes.get_xlabel() == "latency (ms)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["uniform"]
