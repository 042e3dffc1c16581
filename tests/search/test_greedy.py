"""The greedy search on made-up landscapes: no network, no JAX."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.errors import UserError
from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS, Space
from rfquant_jax.search.budget import Budget, CostKind, Limit
from rfquant_jax.search.greedy import (
    GreedySearch,
    GreedySettings,
    cheapest,
    nearest_level,
    score,
)
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.variables import make_search_space

B = (6, 5, 4, 3, 2)


def settings(**changes):
    values = {"alpha": 1.5, "start_bits": 5, "normalize": "max"}
    return GreedySettings(**values | changes)


def make_space(layers, masks=None):
    masks = np.ones((layers, 5), bool) if masks is None else np.asarray(masks, bool)
    return Space(tuple(f"l{i}" for i in range(layers)), B, masks)


def search_space_of(layers, masks=None, **limits):
    return make_search_space(make_space(layers, masks), **limits)


def make_costs(macs, weights=None):
    macs = np.asarray(macs, np.int64)
    return CostModel(macs, macs if weights is None else np.asarray(weights), 0, 0)


def into(moves):
    """Collects moves."""
    return lambda move, configuration: moves.append(move)


def limited(costs, **limits):
    """A budget over costs by their units."""
    return Budget("b", tuple(Limit(costs.kinds()[unit], limits[unit]) for unit in limits))


def bitops(costs, limit):
    return Budget(f"{limit}G", limited(costs, G=limit).limits)


def test_jointly_the_harmless_moves_come_first_whichever_they_are():
    """Bits of activations are free, those of weights are not; from 50 to 32 each costs 5 units.

    The fourth move, to 2 bits, is the last that layer 0 has; the phases would begin with weights.
    """
    costs = make_costs([10**9, 10**9])

    def evaluate(configurations, iteration):
        lost = np.maximum(5 - configurations, 0).sum(axis=1)
        return 0.1 + 0.2 * lost[:, WEIGHTS] + 0.001 * lost[:, ACTIVATIONS]

    moves = []
    chosen = settings(joint=True)
    search = GreedySearch(
        search_space_of(2), chosen, [bitops(costs, 32.0)], evaluate, on_move=into(moves)
    )
    (found,) = search.run()
    assert found.tolist() == [[5, 2], [5, 4]]
    assert [(m.phase, m.layer, m.bits) for m in moves] == [
        ("activations", 0, 4),
        ("activations", 0, 3),
        ("activations", 0, 2),
        ("activations", 1, 4),
    ]
    assert moves[0].candidates == 8


def test_jointly_no_move_is_made_that_the_budget_does_not_need():
    """Near the start the phases would go on to 95 % of its cost; jointly nothing asks for that."""
    costs = make_costs([10**9] * 4)
    moves = []
    budgets = [bitops(costs, limit) for limit in (97.0, 90.0)]
    GreedySearch(
        search_space_of(4),
        settings(joint=True),
        budgets,
        lambda configurations, iteration: np.zeros(len(configurations)),
        on_move=into(moves),
    ).run()
    # From 100 by units of 5: one move for the first budget, one for the second.
    assert [(move.budget, move.load) for move in moves] == [(0, 95 / 97), (1, 1.0)]


def test_the_known_best_path_is_taken():
    """Two equal layers; layer 0 does not mind few bits, layer 1 does.

    The budget is the cost at 4 bits, 32 units. Phase 1 must reach 0.95 * cost(4, 5) = 38 units from
    50: each bit of weight costs 5 units, so three moves, all of them downwards in layer 0: to 35.
    Phase 2 then lowers the activations of layer 0, whose weights have 2 bits, twice: 2 units each.
    """
    costs = make_costs([10**9, 10**9])

    def evaluate(configurations, iteration):
        lost = np.maximum(5 - configurations, 0).sum(axis=2)
        return 0.1 + 0.001 * lost[:, 0] + 0.2 * lost[:, 1]

    moves = []
    search = GreedySearch(
        search_space_of(2), settings(), [bitops(costs, 32.0)], evaluate, on_move=into(moves)
    )
    (found,) = search.run()
    assert [(m.phase, m.layer, m.bits) for m in moves] == [
        ("weights", 0, 4),
        ("weights", 0, 3),
        ("weights", 0, 2),
        ("activations", 0, 4),
        ("activations", 0, 3),
    ]
    assert found.tolist() == [[2, 3], [5, 5]]
    assert costs.bitops_g(found) == 31


def test_an_upward_move_is_taken_where_it_scores_best():
    """Weights at 5 bits are useless, at 6 they are perfect: the first move goes up."""
    costs = make_costs([10**9, 10**9])

    def evaluate(configurations, iteration):
        return 1.0 - 0.9 * np.any(configurations[:, :, WEIGHTS] == 6, axis=1)

    moves = []
    GreedySearch(
        search_space_of(2), settings(), [bitops(costs, 32.0)], evaluate, on_move=into(moves)
    ).run()
    assert (moves[0].layer, moves[0].bits) == (0, 6)


def test_ties_go_to_the_earlier_layer_and_down_before_up():
    same = settings(alpha=0.0)
    costs = make_costs([10**9, 10**9])
    seen = []

    def evaluate(configurations, iteration):
        seen.append(configurations)
        return np.zeros(len(configurations))

    moves = []
    GreedySearch(
        search_space_of(2), same, [bitops(costs, 45.0)], evaluate, on_move=into(moves)
    ).run()
    # candidates of the first iteration, in order: layer 0 down, up; layer 1 down, up
    assert seen[0][:, :, WEIGHTS].tolist() == [[4, 5], [6, 5], [5, 4], [5, 6]]
    assert (moves[0].layer, moves[0].bits) == (0, 4)


def test_no_state_is_entered_twice_before_only_downward_moves_remain():
    """A landscape that only ever wants up: the search must turn round at the top and still end."""
    costs = make_costs([10**9])

    def evaluate(configurations, iteration):
        return 1 - configurations[:, :, WEIGHTS].sum(axis=1) / 6

    moves = []
    (found,) = GreedySearch(
        search_space_of(1),
        settings(alpha=100.0),
        [bitops(costs, 6.0)],
        evaluate,
        on_move=into(moves),
    ).run()
    weights = [m.bits for m in moves if m.phase == "weights"]
    # up to 6; 5 was the start, so only downward moves remain from here on, to the least cost that
    # weights can reach: 0.95 * cost(2, 5) lies below it
    assert weights == [6, 5, 4, 3, 2]
    assert costs.bitops_g(found) <= 6


def test_phase_one_goes_on_until_activations_alone_can_reach_the_budget():
    costs = make_costs([10**9])
    (found,) = GreedySearch(
        search_space_of(1), settings(), [bitops(costs, 4.0)], lambda c, i: np.zeros(len(c))
    ).run()
    assert found.tolist() == [[2, 2]]


def test_a_size_budget_alone_moves_weights_only():
    costs = make_costs([10**9, 10**9], weights=[8 * 2**20, 8 * 2**20])
    budget = limited(costs, MB=7.0)
    (found,) = GreedySearch(
        search_space_of(2), settings(), [budget], lambda c, i: np.zeros(len(c))
    ).run()
    assert found[:, ACTIVATIONS].tolist() == [5, 5]
    assert found[:, WEIGHTS].sum() == 7


def test_one_search_serves_several_budgets():
    costs = make_costs([10**9] * 3)
    budgets = [bitops(costs, limit) for limit in (48.0, 27.0, 12.0)]
    found = GreedySearch(
        search_space_of(3), settings(), budgets, lambda c, i: np.zeros(len(c))
    ).run()
    for budget, configuration in zip(budgets, found, strict=True):
        assert budget.fits(configuration)


@pytest.mark.parametrize(
    ("limit", "level"), [(100.0, 6), (34.0, 4), (25.0, 4), (24.9, 3), (17.0, 3), (1.0, 2)]
)
def test_the_level_is_the_uniform_bit_width_of_nearest_cost(limit, level):
    # uniform costs 72, 50, 32, 18, 8; 25 lies halfway between 32 and 18: the tie goes upward
    assert nearest_level(bitops(make_costs([10**9, 10**9]), limit), search_space_of(2)) == level


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("max", [1.5 * 0.5 + 1.0, 1.5 * 1.0 + 0.5]),
        ("minmax", [0.0 + 1.0, 1.5 + 0.0]),
    ],
)
def test_scores(normalize, expected):
    got = score(np.asarray([0.1, 0.2]), np.asarray([2.0, 1.0]), settings(normalize=normalize))
    np.testing.assert_allclose(got, expected)


def test_a_term_without_size_is_left_out_and_failures_count_as_worst():
    loads = np.asarray([2.0, 1.0])
    np.testing.assert_allclose(score(np.zeros(2), loads, settings()), [1.0, 0.5])
    got = score(np.asarray([np.nan, 0.2]), loads, settings())
    np.testing.assert_allclose(got, [2.5, 2.0])
    np.testing.assert_allclose(score(np.full(2, np.nan), loads, settings()), [1.0, 0.5])


def test_an_unreachable_budget_is_refused_with_the_range():
    costs = make_costs([10**9, 10**9])
    with pytest.raises(UserError) as error:
        GreedySearch(search_space_of(2, min_bits=3), settings(), [bitops(costs, 17.0)], None)
    assert "17.0G cannot be reached" in str(error.value)
    assert "from 18 GBitOPs to 72 GBitOPs" in str(error.value)


layers_strategy = st.integers(1, 5)


@given(
    data=st.data(),
    layers=layers_strategy,
    seed=st.integers(0, 10**6),
    normalize=st.sampled_from(["max", "minmax"]),
    alpha=st.floats(0, 5),
    max_iterations=st.sampled_from([0, 3, 50]),
)
def test_no_result_is_over_budget_and_every_search_ends(
    data, layers, seed, normalize, alpha, max_iterations
):
    random = np.random.default_rng(seed)
    mask = random.random((layers, 5)) < 0.7
    mask[np.arange(layers), random.integers(0, 5, layers)] = True
    space = make_space(layers, mask)
    search_space = make_search_space(space, **drawn_restrictions(data, space))
    costs = make_costs(
        random.integers(1, 100, layers) * 10**7, random.integers(1, 9, layers) * 2**20
    )
    # As a device may measure it: sometimes fewer bits take longer.
    latency = LatencyTable(random.random((layers, 5, 5)) + 0.1, 0.5, B)
    kinds = costs.kinds() | {"ms": CostKind("ms", "ms", latency)}
    budgets = []
    for _ in range(data.draw(st.integers(1, 3))):
        units = data.draw(st.sampled_from([("G",), ("MB",), ("G", "MB"), ("ms",)]))
        lowest = {
            unit: kinds[unit].cost(cheapest(search_space, Budget("x", (Limit(kinds[unit], 1.0),))))
            for unit in units
        }
        slack = [1 + random.exponential(2.0) for _ in units]
        limits = [Limit(kinds[u], f * lowest[u]) for u, f in zip(units, slack, strict=True)]
        budgets.append(Budget("b", tuple(limits)))
    chosen = settings(alpha=alpha, normalize=normalize, max_iterations=max_iterations)
    found = GreedySearch(
        search_space, chosen, budgets, lambda c, i: np.random.default_rng([seed, i]).random(len(c))
    ).run()
    for budget, configuration in zip(budgets, found, strict=True):
        assert budget.fits(configuration)
        assert search_space.holds(configuration)
        for row, (w, a) in enumerate(configuration):
            assert w in space.allowed(row)
            assert a in space.allowed(row)


def drawn_restrictions(data, space):
    """Pins, groups and equal bits that a network with these bit-widths can keep."""
    pins, groups = [], []
    if data.draw(st.booleans()):
        layer = data.draw(st.integers(0, len(space) - 1))
        allowed = st.sampled_from(space.allowed(layer))
        pins.append((space.names[layer], (data.draw(allowed), data.draw(allowed))))
    elif len(space) > 1 and data.draw(st.booleans()):
        pair = [0, len(space) - 1]
        if set(space.allowed(pair[0])) & set(space.allowed(pair[1])):
            what = data.draw(st.sampled_from(["weights", "activations", "both"]))
            groups.append((what, *(space.names[i] for i in pair)))
    same_bits = [] if pins else data.draw(st.sampled_from([[], [space.names[0]], ["*"]]))
    return {"pins": pins, "groups": groups, "same_bits": same_bits}


@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_configuration_of_a_table_is_its_least_sum(seed):
    random = np.random.default_rng(seed)
    table = random.random((3, 5, 5))
    kind = CostKind("ms", "ms", LatencyTable(table, 1.0, B))
    found = cheapest(search_space_of(3), Budget("b", (Limit(kind, 1.0),)))
    assert kind.cost(found) == pytest.approx(1.0 + table.min(axis=(1, 2)).sum(), abs=1e-9)


def test_where_fewer_bits_take_longer_the_budget_is_kept_all_the_same():
    """Only 6-bit weights are fast: the search runs down and must come back up."""
    table = np.full((2, 5, 5), 10.0)
    table[:, 0, :] = 1.0
    kind = CostKind("ms", "ms", LatencyTable(table, 0.0, B))
    budget = Budget("5ms", (Limit(kind, 5.0),))
    (found,) = GreedySearch(
        search_space_of(2), settings(), [budget], lambda c, i: np.zeros(len(c))
    ).run()
    assert found[:, WEIGHTS].tolist() == [6, 6]
