"""Paired comparisons: means and intervals by hand, unseen halves, losses that are no numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.evaluate.evaluator import Outcomes
from rfquant_jax.search.selection import Difference, Finalist, Gain, gain, on_all, select


def outcomes(loss, top1=None):
    loss = np.asarray(loss, np.float32)
    top1 = np.zeros(len(loss), bool) if top1 is None else np.asarray(top1, bool)
    return Outcomes(top1, top1, loss, np.zeros(len(loss), np.int32))


def test_mean_and_interval_by_hand():
    """1 2 3 6: mean 3, squares 4 + 1 + 0 + 9 = 14, variance 14 / 3, error sqrt(14 / 12)."""
    found = Difference.of(np.asarray([1.0, 2.0, 3.0, 6.0]))
    half = 1.959964 * math.sqrt(14 / 12)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))


def test_one_image_or_none_has_no_spread():
    assert Difference.of(np.asarray([2.5])) == Difference(2.5, 2.5, 2.5)
    assert Difference.of(np.asarray([])) == Difference(0.0, 0.0, 0.0)


def test_what_makes_images_hard_for_all_cancels_out():
    hard = np.random.default_rng(0).normal(0, 100, 50)
    found = on_all("w4a4", outcomes(hard - 1), outcomes(hard)).loss
    assert found.mean == pytest.approx(-1, abs=1e-5)
    assert found.high - found.low < 1e-4


def test_images_that_cannot_be_read_are_left_out():
    """The differences are 1, 2 and 6, without the 1,000 of the image labelled -1."""
    found, other = outcomes([2.0, 1003, 4, 9]), outcomes([1.0, 3, 2, 3])
    found.labels[1] = other.labels[1] = -1
    assert on_all("w4a4", found, other).loss.mean == pytest.approx(3)


def test_a_gain_by_hand():
    """Differences in points: 100, 0, -100, 100; in loss -0.5, 0, 1, -1.5."""
    found = outcomes([0.5, 1.0, 2.0, 0.5], [1, 0, 0, 1])
    other = outcomes([1.0, 1.0, 1.0, 2.0], [0, 0, 1, 0])
    figures = on_all("w3a3", found, other).as_dict()
    assert list(figures) == [
        "over",
        "top1",
        "top1_interval",
        "cross_entropy",
        "cross_entropy_interval",
    ]
    assert figures["over"] == "w3a3"
    assert figures["top1"] == 25
    points = 1.959964 * math.sqrt((75**2 + 25**2 + 125**2 + 75**2) / 3 / 4)
    assert figures["top1_interval"] == pytest.approx([25 - points, 25 + points])
    assert figures["cross_entropy"] == -0.25
    half = 1.959964 * math.sqrt((0.25**2 + 0.25**2 + 1.25**2 + 1.25**2) / 3 / 4)
    assert figures["cross_entropy_interval"] == pytest.approx([-0.25 - half, -0.25 + half])


def test_only_the_images_that_count_are_compared():
    found, other = outcomes([1, 2, 3], [1, 0, 1]), outcomes([0, 0, 0], [0, 0, 0])
    counted = gain("x", [(found, other)], [np.asarray([True, False, True])])
    assert (counted.top1.mean, counted.loss.mean) == (100, 2)
    nothing = gain("x", [(found, other)], [np.zeros(3, bool)])
    assert nothing == Gain("x", Difference(0, 0, 0), Difference(0, 0, 0))
    assert not nothing.distinguishable


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-2, -1, True), (1, 2, True), (-1, 1, False), (0, 1, False), (-1, 0, False)],
)
def test_what_excludes_zero_can_be_told_apart(low, high, expected):
    for mean in (low, high):
        assert (
            Gain("x", Difference(0, -1, 1), Difference(mean, low, high)).distinguishable == expected
        )
    # Counts of correct answers have no say in it.
    assert Gain("x", Difference(5, 4, 6), Difference(0, low, high)).distinguishable == expected


def test_a_loss_that_is_no_number_is_worse_than_all_others():
    """The worst finite one is 4; what is not finite counts as 5, in either network."""
    found = outcomes([1, np.nan, np.inf, np.nan])
    other = outcomes([2, 3, 4, -np.inf])
    assert on_all("x", found, other).loss.mean == pytest.approx((-1 + 2 + 1 + 0) / 4)
    assert on_all("x", other, found).loss.mean == pytest.approx((1 - 2 - 1 + 0) / 4)
    never = outcomes([np.nan, np.nan])
    assert on_all("x", never, never).loss == Difference(0.0, 0.0, 0.0)


@given(seed=st.integers(0, 10**6), size=st.integers(2, 40))
def test_gains_are_opposite_from_the_other_side(seed, size):
    rng = np.random.default_rng(seed)
    one, other = (outcomes(rng.gamma(1, 1, size), rng.random(size) < 0.5) for _ in range(2))
    there, back = on_all("x", one, other), on_all("x", other, one)
    for name in ("top1", "loss"):
        a, b = getattr(there, name), getattr(back, name)
        np.testing.assert_allclose([a.mean, a.low, a.high], [-b.mean, -b.high, -b.low], atol=1e-9)
    losses = one.loss.astype(float) - other.loss
    assert there.loss.mean == pytest.approx(losses.mean())


def finalists(*names, images=4, unseen=None):
    everything = np.ones(images, bool)
    return [
        Finalist(name, np.full((2, 2), number, np.int32), (unseen or {}).get(name, everything))
        for number, name in enumerate(names)
    ]


def means(choice):
    return {name: found.loss.mean for name, found in choice.gains.items()}


def test_the_least_paired_cross_entropy_wins():
    found = {
        "proposed": outcomes([1, 1, 1, 2], [0, 0, 0, 0]),
        "uniform w3a3": outcomes([2, 1, 2, 2], [1, 1, 1, 1]),  # more right answers do not count
        "uniform w4a2": outcomes([1, 2, 2, 3]),
    }
    proposed, *uniform = finalists("proposed", "uniform w3a3", "uniform w4a2")
    choice = select([proposed], uniform, found)
    assert choice.winner is proposed
    assert means(choice) == {"uniform w3a3": -0.5, "uniform w4a2": -0.75}
    assert [g.over for g in choice.gains.values()] == ["uniform w3a3", "uniform w4a2"]


FIRST = np.asarray([True, True, False, False])
HALVES = {"half A": ~FIRST, "half B": FIRST}  # unseen by it


@pytest.mark.parametrize(("second", "winner"), [(2.25, "half B"), (2.75, "uniform")])
def test_gains_are_pooled_over_what_each_half_did_not_see(second, winner):
    """Half A looks excellent where it was proposed and loses elsewhere; half B gains 0.5."""
    found = {
        "half A": outcomes([0, 0, second, second]),
        "half B": outcomes([1.5, 1.5, 9, 9]),
        "uniform": outcomes([2, 2, 2, 2]),
    }
    *proposed, uniform = finalists("half A", "half B", "uniform", unseen=HALVES)
    choice = select(proposed, [uniform], found)
    assert choice.winner.name == winner
    pooled = (2 * (second - 2) - 2 * 0.5) / 4
    assert means(choice) == {"uniform": pooled if winner == "half B" else 0.0}


def test_only_the_best_proposal_of_a_half_counts():
    found = {
        "bad": outcomes([0, 0, 9, 9]),
        "good": outcomes([0, 0, 1, 1]),
        "half B": outcomes([1, 1, 0, 0]),
        "uniform": outcomes([2, 2, 2, 2]),
    }
    unseen = {"bad": ~FIRST, "good": ~FIRST, "half B": FIRST}
    *proposed, uniform = finalists("bad", "good", "half B", "uniform", unseen=unseen)
    choice = select(proposed, [uniform], found)
    assert choice.winner.name == "good"  # of equal ones the first
    assert means(choice) == {"uniform": -1.0}


def test_what_loses_to_one_uniform_configuration_loses_to_the_best_of_them():
    found = {
        "proposed": outcomes([2, 2, 2, 2]),
        "uniform w2a2": outcomes([3, 3, 3, 3]),
        "uniform w2a3": outcomes([1, 1, 1, 2]),
    }
    proposed, *uniform = finalists("proposed", "uniform w2a2", "uniform w2a3")
    choice = select([proposed], uniform, found)
    assert choice.winner is uniform[1]
    assert means(choice) == {"uniform w2a2": -1.75, "uniform w2a3": 0.0}


def test_of_equal_ones_the_first_wins_and_a_uniform_one_before_a_proposal():
    same = outcomes([1, 2, 3, 4])
    names = ("c", "a", "b")
    for order in (names, names[::-1]):
        known = dict.fromkeys([*names, "uniform"], same)
        assert select(finalists(*order), [], known).winner.name == order[0]
        choice = select(finalists(*order), finalists("uniform"), known)
        assert choice.winner.name == "uniform"


def test_a_proposal_that_computes_no_number_loses():
    found = {
        "broken": outcomes([np.nan] * 4),
        "uniform w2a2": outcomes([5, 6, 7, 8]),
    }
    choice = select(finalists("broken"), finalists("uniform w2a2"), found)
    assert choice.winner.name == "uniform w2a2"
    assert means(choice) == {"uniform w2a2": 0.0}
