"""What a training writes about its passes."""

import re

import numpy as np
import pytest

from rfquant_jax.quant.space import Space
from rfquant_jax.train import interference
from rfquant_jax.train.interference import BitCounts, pass_kinds, summarize
from rfquant_jax.train.state import StepInputs

B = (4, 3, 2)


@pytest.fixture
def space():
    """Two layers, the second of which never goes below 3 bits."""
    return Space(("a", "dw"), B, np.asarray([[1, 1, 1], [1, 1, 0]], bool))


def test_a_pass_is_the_smallest_one_by_what_its_step_allows():
    passes = np.asarray(
        [
            [[4, 4], [4, 4]],
            [[2, 2], [3, 3]],
            [[3, 2], [3, 3]],
            [[2, 2], [3, 4]],
        ]
    )
    assert kinds(passes, [[2, 2], [3, 3]]) == ["max", "smallest", "random", "random"]
    # The weights of the first layer have lost 2 bits.
    assert kinds(passes, [[3, 2], [3, 3]]) == ["max", "random", "smallest", "random"]


def kinds(configurations, smallest):
    nothing = [None] * 4
    return pass_kinds(StepInputs(configurations, np.asarray(smallest), *nothing))


def test_metrics_are_means_over_devices_passes_and_micro_batches():
    # Two micro-batches of a max pass, a smallest and a random one, on two devices.
    passes = [[1, 3], [10, 10], [20, 40], [5, 7], [0, 0], [30, 10]]
    metrics = [{"loss": np.asarray(p, np.float32)} for p in passes]
    found = summarize(metrics, ["max", "smallest", "random"])
    assert found == {"loss": 4.0, "smallest/loss": 5.0, "random/loss": 25.0}
    assert summarize(metrics, ["max", "random", "random"]) == {"loss": 4.0, "random/loss": 15.0}
    assert summarize(metrics[:1], ["max"]) == {"loss": 2.0}


def test_counts_of_the_passes_but_the_max_ones(space):
    counts = BitCounts(space)
    counts.add(np.asarray([[[4, 4], [4, 4]], [[2, 4], [3, 3]], [[2, 3], [4, 3]]], np.int32))
    counts.add(np.asarray([[[4, 4], [4, 4]], [[3, 4], [3, 4]], [[2, 3], [4, 3]]], np.int32))
    expected = {
        "passes": 4,
        "weights": [[0, 1, 3], [2, 2, 0]],
        "activations": [[2, 2, 0], [1, 3, 0]],
    }
    kept = counts.state()
    assert kept == expected
    assert counts.take() == expected
    assert counts.take()["passes"] == 0
    counts.restore(kept)
    counts.add(np.asarray([[[4, 4], [4, 4]], [[2, 4], [3, 3]]], np.int32))
    assert counts.take()["weights"] == [[0, 1, 4], [2, 3, 0]]


def test_a_record_and_its_curves(space):
    counts = {"passes": 4, "weights": [[0, 1, 3], [2, 2, 0]], "activations": [[2, 2, 0], [1, 3, 0]]}
    frozen = space.full_mask.copy()
    frozen[0, 2] = False
    shares = np.asarray([[0.5, 0.25, 0.125], [0.75, 0.5, 1.0]])
    masks = np.stack([frozen, space.full_mask])
    record = interference.record(space, masks, counts, shares)
    # What a layer cannot run at has no share.
    assert record["near_boundary"] == [[0.5, 0.25, 0.125], [0.75, 0.5, None]]
    assert record["smallest"] == [3, 3]
    assert "activations_allowed" not in record
    curves = interference.scalars(record)
    assert curves["sampled/a/w2"] == 0.75
    assert curves["sampled/dw/a4"] == 0.25
    assert curves["near_boundary/a"] == 0.25
    assert curves["near_boundary/dw"] == 0.5
    assert len(curves) == 2 * 2 * 3 + 2


def test_a_record_of_activations_with_candidates_of_their_own(space):
    own = np.asarray([[1, 0, 0], [1, 0, 0]], bool)
    space = Space(space.names, B, space.full_mask, own, (B, (4,)))
    counts = BitCounts(space)
    counts.add(np.asarray([[[4, 4], [4, 4]], [[2, 4], [3, 4]]], np.int32))
    taken = counts.take()
    assert taken["activations"] == [[1, 0, 0], [1, 0, 0]]
    record = interference.record(space, space.full_masks, taken, np.ones((2, 3)))
    assert record["activations_allowed"] == own.tolist()
    assert record["bits"] == [4, 3, 2]


def test_every_curve_is_in_exactly_one_chart(space):
    counts = {"passes": 4, "weights": [[0, 1, 3], [2, 2, 0]], "activations": [[2, 2, 0], [1, 3, 0]]}
    masks = np.stack([space.full_mask] * 2)
    curves = interference.scalars(interference.record(space, masks, counts, np.ones((2, 3))))
    names = [*curves, "loss", "random/loss", "smallest/loss", "held_out/w4a4", "frozen_layers"]
    found = {
        title: [name for name in names for curve in of if re.match(curve, f"train/{name}")]
        for charts in interference.charts("train", space).values()
        for title, of in charts.items()
    }
    assert sorted(name for chart in found.values() for name in chart) == sorted(names)
    assert found["loss of each kind of pass"] == ["loss", "random/loss", "smallest/loss"]
    assert found["dw, activations"] == ["sampled/dw/a4", "sampled/dw/a3", "sampled/dw/a2"]
    assert found["weights near a boundary, by layer"] == ["near_boundary/a", "near_boundary/dw"]
    # Terms of the loss have curves of their own.
    assert not any(
        re.match(curve, f"train/{name}")
        for of in interference.charts("train", space).values()
        for chart in of.values()
        for curve in chart
        for name in ("cross_entropy", "random/idm", "rate/learning")
    )
