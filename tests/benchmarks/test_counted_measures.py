"""Measurements for the comparison of search algorithms: counted, limited, computed once."""

import numpy as np
import pytest

from benchmarks.counted_measures import Counted, Memo
from benchmarks.rows import written_rows
from rfquant_jax.runtime.json_files import write_json


class Sums:
    """Sum of the bit-widths, and a record of what was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, configurations, metric):
        self.asked += [(metric, int(c.sum())) for c in configurations]
        return configurations.sum((1, 2)).astype(float)


def configurations(*bits: int) -> np.ndarray:
    """int32[N, 2, 2]: uniform configurations of two layers."""
    return np.stack([np.full((2, 2), b, np.int32) for b in bits])


def test_memo_computes_each_pair_of_metric_and_configuration_once():
    measure = Sums()
    memo = Memo(measure)
    assert memo(configurations(3, 2), "divergence").tolist() == [12.0, 8.0]
    assert memo(configurations(2, 4, 3), "divergence").tolist() == [8.0, 16.0, 12.0]
    assert memo(configurations(2), "error").tolist() == [8.0]
    assert measure.asked == [
        ("divergence", 12),
        ("divergence", 8),
        ("divergence", 16),
        ("error", 8),
    ]


def test_counted_stops_measuring_at_its_limit_and_repeats_are_free():
    measure = Sums()
    counted = Counted(measure, "divergence", left=3)
    assert counted(configurations(2, 3, 2)).tolist() == [8.0, 12.0, 8.0]
    # One evaluation is left: the second new configuration gets the worst value so far.
    assert counted(configurations(5, 3, 6)).tolist() == [20.0, 12.0, 20.0]
    assert counted.spent == 3
    assert len(measure.asked) == 3


def test_a_memo_does_not_change_what_an_algorithm_spends():
    memo = Memo(Sums())
    for _ in range(2):
        counted = Counted(memo, "divergence", left=2)
        counted(configurations(2, 3, 4))
        assert (counted.spent, counted.left) == (2, 0)


def test_rows_of_other_images_are_refused(tmp_path):
    path = tmp_path / "rows.json"
    assert written_rows(path, 500) == []
    rows = [{"run": "a", "images": 500, "rule": "greedy", "evaluations": 150}]
    write_json(path, rows)
    assert written_rows(path, 500) == rows
    with pytest.raises(SystemExit, match="measured on 500 images, --images=200"):
        written_rows(path, 200)
