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
    plots.sensitivity(tmp_path / "s.png", growth, ["a", "b"], "4 bits")
    axes = drawn[0].axes[0]
    values = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    nan = np.nan
    np.testing.assert_array_equal(values, [[0, 0], [0.5, 1], [nan, 2], [0, 0], [-1, 0], [nan, 0]])
    assert axes.images[0].get_clim() == (-2.0, 2.0)  # zero in the middle


def test_the_frontier_shows_every_series_and_full_precision(drawn, tmp_path):
    series = {"uniform": [(2.0, 60.0), (1.0, 50.0)], "searched": [(1.5, 62.0)]}
    plots.frontier(tmp_path / "f.png", series, 70.0)
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["uniform"] == [[1.0, 50.0], [2.0, 60.0]]
    assert lines["searched"] == [[1.5, 62.0]]
    assert lines["full precision"][0][1] == 70.0
    assert not list(tmp_path.glob("*.tmp"))
