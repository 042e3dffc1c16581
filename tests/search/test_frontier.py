"""The curve of accuracy over cost, and which of its points are confirmed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.search.budget import CostKind
from rfquant_jax.search.design import profile_configurations
from rfquant_jax.search.frontier import POINTS, curve, spread
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.surrogate import log_divergence
from rfquant_jax.search.trust_region import TrustRegionSearch, TrustRegionSettings
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import B, additive_terms, divergence, everything, space_of


def model_of(search_space, truth, count=80):
    configurations = profile_configurations(search_space, count, 0)

    def nothing(configurations):
        raise AssertionError("the curve only asks the surrogate")

    settings = TrustRegionSettings()
    return TrustRegionSearch(
        search_space, configurations, truth(configurations), nothing, settings, 0
    )


COSTS = CostModel(np.asarray([3, 1, 5, 2]) * 10**8, np.asarray([1, 4, 2, 2]) * 10**5, 10**7, 10**5)


@pytest.mark.parametrize("unit", ["G", "MB"])
@pytest.mark.parametrize(
    "restrictions", [{}, {"pins": [("l2", (4, 3))], "max_bits": 5}, {"same_bits": ["l[02]"]}]
)
def test_the_curve_spans_all_costs_and_keeps_its_budgets(unit, restrictions):
    search_space, kind = make_search_space(space_of(4), **restrictions), COSTS.kinds()[unit]
    points = curve(
        model_of(search_space, lambda c: divergence(additive_terms(3, 4), c)), search_space, kind
    )
    costs = np.asarray([kind.cost(point.configuration) for point in points])
    limits = np.asarray([point.budget.limits[0].value for point in points])
    assert all(point.budget.limits[0].kind is kind for point in points)
    assert np.all(costs <= limits)
    assert np.all(np.diff(limits) > 0)
    assert costs[0] == limits[0] == kind.cost(search_space.lowest)
    lowest = search_space.uniform(2, 2 if unit == "G" else 6)  # a size leaves activations alone
    np.testing.assert_array_equal(points[0].configuration, lowest)
    largest = kind.cost(search_space.uniform(6, 6))
    np.testing.assert_array_equal(points[-1].configuration, search_space.uniform(6, 6))
    assert costs[-1] == limits[-1] == largest
    assert 10 < len(points) <= POINTS
    assert len({point.configuration.tobytes() for point in points}) == len(points)
    assert all(search_space.holds(point.configuration) for point in points)
    # Even on a log scale, whichever points are left out because they repeat.
    places = (np.log(limits / limits[0])) / (np.log(largest / limits[0])) * (POINTS - 1)
    np.testing.assert_allclose(places, places.round(), atol=1e-6)


def test_points_are_as_good_as_the_best_within_a_trust_region():
    """Log harms add up: nothing within reach of the best known one is better than a point."""
    search_space, kind = (
        make_search_space(space_of(3)),
        CostModel(np.full(3, 10**9), np.ones(3), 0, 0).kinds()["G"],
    )
    terms = additive_terms(5, 3)

    def truth(configurations):
        return divergence(terms, configurations)

    model = model_of(search_space, truth)
    all_of_them = everything(search_space)
    costs = np.asarray([kind.cost(c) for c in all_of_them])
    harms = truth(all_of_them)
    for point in curve(model, search_space, kind)[:-1:4]:
        best = model.configuration(model.best(point.budget))
        near = (all_of_them != best).sum(axis=(1, 2)) <= 2  # 0.3 of 6 variables
        inside = near & (costs <= point.budget.limits[0].value)
        found = truth(point.configuration[None])[0]
        assert found == pytest.approx(harms[inside].min())
        assert np.log(point.predicted) == pytest.approx(log_divergence([found])[0], abs=0.02)


def test_a_curve_over_latencies_begins_at_the_fastest_configuration():
    """Which has not the fewest bits: 3 are faster than 2, and nobody measured that before."""
    grid = np.asarray([5.0, 4.0, 3.0, 1.0, 2.0])
    table = np.stack([grid[:, None] + grid[None]] * 3)
    table[1] = table[1].T + np.arange(5)[:, None] / 100
    kind = CostKind("ms", "ms", LatencyTable(table, 0.5, B))
    search_space = make_search_space(space_of(3), pins=[("l2", (5, 2))])
    model = model_of(search_space, lambda c: divergence(additive_terms(1, 3), c), count=40)
    fastest = min(everything(search_space), key=kind.cost)
    points = curve(model, search_space, kind)
    np.testing.assert_array_equal(points[0].configuration, fastest)
    for point in points:
        assert kind.cost(point.configuration) <= point.budget.limits[0].value
    assert points[0].budget.text.endswith("ms")


def test_a_single_configuration_is_the_whole_curve():
    search_space = make_search_space(space_of(2), pins=[("l*", (4, 3))])
    kind = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()["G"]
    (point,) = curve(model_of(search_space, lambda c: np.full(len(c), 0.25)), search_space, kind)
    assert point.configuration.tolist() == [[4, 3], [4, 3]]
    assert point.predicted == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("count", "chosen", "expected"),
    [
        (7, 3, [0, 3, 6]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 12, [0, 1, 2]),
        (30, 2, [0, 29]),
        (10, 4, [0, 3, 6, 9]),
        (1, 12, [0]),
        (9, 1, [0]),
        (9, 0, []),
        (0, 5, []),
    ],
)
def test_the_spread_by_hand(count, chosen, expected):
    assert spread(count, chosen) == expected


@given(count=st.integers(1, 200), chosen=st.integers(2, 60))
def test_the_spread_is_even_and_has_both_ends(count, chosen):
    found = spread(count, chosen)
    assert len(found) == min(count, chosen)
    assert found[0] == 0
    assert found[-1] == count - 1
    steps = np.diff(found)
    assert not len(steps) or steps.max() - steps.min() <= 1
