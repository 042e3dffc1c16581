"""Integer programs on the surrogate, in trust regions: best answers, limits, and no deception."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.space import WEIGHTS
from rfquant_jax.search.budget import Budget, CostKind, Limit
from rfquant_jax.search.design import profile_configurations
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.surrogate import Terms, distances, log_divergence
from rfquant_jax.search.trust_region import TrustRegionSearch, TrustRegionSettings
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import (
    B,
    additive_terms,
    divergence,
    everything,
    own_activations,
    space_of,
)

RESTRICTIONS = [
    {},
    {"pins": [("l1", (4, 5))]},
    {"groups": [("both", "l0", "l2")]},
    {"groups": [("activations", "l*")], "min_bits": 3},
    {"same_bits": ["l1"]},
    {"same_bits": ["l[01]"], "groups": [("weights", "l0", "l2")]},
]
PATIENT = TrustRegionSettings(evaluations=80, proposals=6, patience=4)
FEW = TrustRegionSettings(evaluations=13, proposals=5, patience=2)


def without_pairs(terms):
    """Terms of variables alone."""
    return Terms(tuple(terms), dict.fromkeys(itertools.product(B, repeat=2), 0.0))


class Costs:
    """Layers of different sizes, of which fewer bits are sometimes slower."""

    def __init__(self, layers, seed):
        rng = np.random.default_rng([seed, 1])
        self.macs, self.weights = rng.integers(1, 9, (2, layers)) * 10**5
        grid = np.arange(1, 6)[::-1]
        table = (rng.integers(1, 5, (layers, 1, 1)) * (grid[:, None] + grid[None])) / 10
        self.table = table + rng.integers(0, 4, table.shape) / 10
        model = CostModel(self.macs, self.weights, 10**5, 10**5)
        self.kinds = model.kinds() | {"ms": CostKind("ms", "ms", LatencyTable(self.table, 0.3, B))}

    def of_all(self, unit, configurations):
        """Costs of many configurations, worked out beside the classes of the package."""
        w, a = np.moveaxis(configurations.astype(float), 2, 0)
        if unit == "G":
            return (w * a) @ self.macs / 1e9 + 1e-4
        if unit == "MB":
            return (w @ self.weights + 1e5) / 8 / 2**20
        layers = np.arange(len(self.macs))
        rows, columns = np.moveaxis(6 - configurations, 2, 0)
        return self.table[layers, rows, columns].sum(1) + 0.3

    def budget(self, configurations, units, share):
        """Limits at a quantile of each cost, and which configurations are within all of them."""
        limits, inside = [], np.ones(len(configurations), bool)
        for unit in units:
            costs = self.of_all(unit, configurations)
            # Between two costs, so that rounding does not decide.
            value = float(np.quantile(costs, share)) * (1 + 1e-7)
            limits.append(Limit(self.kinds[unit], value))
            inside &= costs <= value
        return Budget("+".join(units), tuple(limits)), configurations[inside]


def rugged(seed):
    """Nothing adds up: a random harm for each configuration, a tenth of them not a number."""

    def truth(configurations):
        found = []
        for configuration in np.asarray(configurations, np.int32):
            rng = np.random.default_rng([seed, *configuration.ravel().tolist()])
            value = rng.lognormal(-0.2 * configuration.sum(), 1.0)
            found.append(np.nan if rng.random() < 0.1 else value)
        return np.asarray(found)

    return truth


class Network:
    """Divergences of a made-up network, and what was asked of it."""

    def __init__(self, truth, search_space, count=70, seed=0):
        self.truth, self.search_space, self.asked = truth, search_space, []
        self.profile = profile_configurations(search_space, count, seed)

    def measure(self, configurations):
        assert configurations.dtype == np.int32
        self.asked.extend(configurations)
        return self.truth(configurations)

    def search(self, chosen=PATIENT, seed=0):
        profile = self.profile
        return TrustRegionSearch(
            self.search_space, profile, self.truth(profile), self.measure, chosen, seed
        )


@pytest.mark.parametrize("units", [("G",), ("MB",), ("ms",), ("G", "MB"), ("G", "MB", "ms")])
@settings(max_examples=4)
@given(
    seed=st.integers(0, 10**4),
    share=st.floats(0.02, 0.7),
    restrictions=st.sampled_from(RESTRICTIONS),
)
def test_where_log_harms_add_up_the_best_of_all_is_found(units, seed, share, restrictions):
    search_space, terms = make_search_space(space_of(3), **restrictions), additive_terms(seed, 3)
    budget, fitting = Costs(3, seed).budget(everything(search_space), units, share)
    assume(len(fitting))

    def truth(configurations):
        return divergence(terms, configurations)

    network = Network(truth, search_space)
    found = network.search().search(budget, 0)
    assert truth(found[0][None])[0] == pytest.approx(truth(fitting).min(), rel=1e-9)


@pytest.mark.parametrize("units", [("G",), ("MB",), ("ms",), ("G", "MB", "ms")])
@settings(max_examples=6)
@given(
    seed=st.integers(0, 10**4),
    share=st.floats(0.0, 0.6),
    restrictions=st.sampled_from(RESTRICTIONS),
)
def test_limits_hold_on_any_landscape(units, seed, share, restrictions):
    """Budget, restrictions, evaluations, and at least as good as every uniform pair within."""
    search_space, truth = make_search_space(space_of(3), **restrictions), rugged(seed)
    budget, within = Costs(3, seed).budget(everything(search_space), units, share)
    assume(len(within))  # a budget out of reach is refused before any search
    network = Network(truth, search_space, count=40)
    search = network.search(FEW)
    found = search.search(budget, 0)
    assert len(network.asked) == search.measured <= FEW.evaluations
    known = {c.tobytes() for c in network.profile}
    assert not known & {c.tobytes() for c in network.asked}
    assert len({c.tobytes() for c in network.asked}) == len(network.asked)
    for configuration in [*found, *network.asked]:
        assert budget.fits(configuration)
        assert search_space.holds(configuration)
    # All that was measured, the best first; what is not a number at the end.
    values = truth(found)
    finite = values[np.isfinite(values)]
    assert np.all(np.diff(finite) >= 0)
    assert np.isnan(values[len(finite) :]).all()
    pairs = np.stack([search_space.uniform(w, a) for w in B for a in B])
    fitting = [c for c in pairs if budget.fits(c)]
    harms = truth(np.stack(fitting)) if fitting else np.asarray([np.nan])
    if np.isfinite(harms).any():
        assert values[0] <= np.nanmin(harms)
    elif len(finite):
        assert np.isfinite(values[0])


def test_a_budget_that_nothing_measured_keeps_starts_at_the_cheapest():
    """Fewer bits are slower: the cheapest configuration is no uniform one."""
    search_space = make_search_space(space_of(2))
    table = np.full((2, 5, 5), 2.0)
    table[0, 1, 3] = table[1, 2, 0] = 1.0  # w5a3 and w4a6
    kind = CostKind("ms", "ms", LatencyTable(table, 0.0, B))
    budget = Budget("2ms", (Limit(kind, 2.0),))
    terms = additive_terms(1, 2)
    network = Network(lambda c: divergence(terms, c), search_space, count=30)
    assert not any(budget.fits(c) for c in network.profile)
    search = network.search(FEW)
    assert search.best(budget) is None
    assert [c.tolist() for c in search.search(budget, 0)] == [[[5, 3], [4, 6]]]
    assert search.measured == len(network.asked) == 1
    np.testing.assert_array_equal(search.configuration(search.best(budget)), [[5, 3], [4, 6]])


def deceptive(seed, layers):
    """Log harms add up, but where more than half of the weights have 2 bits nothing is left.

    Random configurations hardly ever show it, the integer program goes straight there.
    """
    terms = additive_terms(seed, layers)
    terms[:, WEIGHTS] *= 0.15  # weights look cheap to give up

    def truth(configurations):
        configurations = np.asarray(configurations)
        ruined = (configurations[:, :, WEIGHTS] == 2).sum(1) > layers / 2
        uniform = np.all(configurations[:, :, WEIGHTS] == 2, axis=1)
        return divergence(terms, configurations) * np.where(ruined & ~uniform, 1e6, 1.0)

    return truth


@settings(max_examples=6)
@given(seed=st.integers(0, 10**4))
def test_an_optimum_of_the_model_that_is_terrible_in_truth_does_not_deceive(seed):
    layers = 6
    truth, search_space = deceptive(seed, layers), make_search_space(space_of(layers))
    costs = CostModel(np.full(layers, 10**8), np.full(layers, 10**5), 0, 0).kinds()
    budget = Budget("x", (Limit(costs["G"], 1.1 * costs["G"].cost(search_space.uniform(3, 3))),))
    network = Network(truth, search_space, count=150, seed=seed)
    search = network.search(TrustRegionSettings(evaluations=90, patience=8))
    start = search.best(budget)
    uniform = truth(search.configuration(start)[None])[0]
    model = search.solve(search.surrogate(start).terms, budget)
    found = search.search(budget, 0)[0]
    assert truth(found[None])[0] <= uniform
    assert truth(found[None])[0] < 0.01 * truth(model[None])[0] or truth(model[None])[0] < uniform
    assert truth(found[None])[0] < uniform  # and still there was something to find


@pytest.mark.parametrize("limit", [0.3, 0.5])
def test_the_program_solves_for_the_least_sum_of_terms(limit):
    """Against all 15,625 configurations of three layers."""
    search_space, rng = make_search_space(space_of(3)), np.random.default_rng(4)
    search = Network(lambda c: divergence(additive_terms(0, 3), c), search_space).search()
    terms = [
        {bits: float(rng.normal()) for bits in variable.allowed}
        for variable in search_space.variables
    ]
    pairs = {pair: float(rng.normal()) for pair in itertools.product(B, repeat=2)}
    budget, fitting = Costs(3, 4).budget(everything(search_space), ("G", "ms"), limit)

    def summed(configurations):
        return sum(
            np.vectorize(term.get)(configurations[:, variable.layers[0], variable.column])
            for variable, term in zip(search_space.variables, terms, strict=True)
        ) + np.asarray([sum(pairs[w, a] for w, a in c.tolist()) for c in configurations])

    terms_and_pairs = Terms(tuple(terms), pairs)
    found = search.solve(terms_and_pairs, budget)
    assert summed(found[None])[0] == pytest.approx(summed(fitting).min())
    centre = fitting[len(fitting) // 3]
    for radius in (0, 1, 2, 4):
        near = fitting[distances(fitting, centre, search_space) <= radius]
        found = search.solve(terms_and_pairs, budget, centre, radius)
        assert distances(found[None], centre, search_space)[0] <= radius
        assert summed(found[None])[0] == pytest.approx(summed(near).min())


def test_tied_layers_count_once_and_are_solved_together():
    """Layer 0 would like many bits, layer 1 does not care: together they take the same."""
    search_space = make_search_space(space_of(2), groups=[("both", "l*")])
    search = Network(lambda c: divergence(additive_terms(0, 2), c), search_space).search()
    terms = [{bits: float(6 - bits) for bits in B}, {bits: 0.1 * (6 - bits) for bits in B}]
    costs = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()
    budget = Budget("36G", (Limit(costs["G"], 36.0),))
    # 2 w a <= 36: w6a3 has 0.3, w5a3 1.3, w4a4 2.2.
    assert search.solve(without_pairs(terms), budget).tolist() == [[6, 3], [6, 3]]
    # One variable may change: from w2a6 the activations stay (w3a6), or the weights (w2a6).
    centre = search_space.uniform(2, 6)
    assert search.solve(without_pairs(terms), budget, centre, 1).tolist() == [[3, 6], [3, 6]]
    assert search.solve(without_pairs(terms), budget, centre, 2).tolist() == [[6, 3], [6, 3]]


def test_equal_bits_of_weights_and_activations_are_solved_as_one_variable():
    """Layer 0 has equal bits; layer 1 only minds its activations."""
    search_space = make_search_space(space_of(2), same_bits=["l0"])
    assert len(search_space.variables) == 3  # w0 = a0, w1, a1
    search = Network(lambda c: divergence(additive_terms(0, 2), c), search_space).search()
    terms = [{b: 10.0 * (6 - b) for b in B}, dict.fromkeys(B, 0.0), {b: 6.0 - b for b in B}]
    costs = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()
    budget = Budget("35G", (Limit(costs["G"], 35.0),))
    # 5 * 5 + 2 * 5 = 35: 6 * 6 alone is too much, and what layer 1 has left is w2a5.
    assert search.solve(without_pairs(terms), budget).tolist() == [[5, 5], [2, 5]]
    # Both bit-widths of layer 0 count as one change.
    centre = search_space.uniform(2, 5)
    assert centre.tolist() == [[2, 2], [2, 5]]
    assert search.solve(without_pairs(terms), budget, centre, 1).tolist() == [[5, 5], [2, 5]]


@settings(max_examples=6)
@given(seed=st.integers(0, 10**4), share=st.floats(0.05, 0.7))
def test_activations_with_candidates_of_their_own_are_solved_exactly(seed, share):
    search_space, terms = make_search_space(own_activations(3)), additive_terms(seed, 3)
    budget, fitting = Costs(3, seed).budget(everything(search_space), ("G", "ms"), share)
    assume(len(fitting))

    def truth(configurations):
        return np.maximum(divergence(terms, configurations), 1e-9)

    network = Network(truth, search_space)
    found = network.search().search(budget, 0)
    assert truth(found[0][None])[0] == pytest.approx(truth(fitting).min(), rel=1e-9)
    for configuration in [*network.profile, *network.asked]:
        assert search_space.holds(configuration)
        assert set(configuration[:, 1].tolist()) <= {5, 3}


def test_a_program_without_a_solution_says_so():
    search_space = make_search_space(space_of(2))
    search = Network(lambda c: divergence(additive_terms(0, 2), c), search_space).search()
    costs = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()
    budget = Budget("20G", (Limit(costs["G"], 20.0),))
    terms = [dict.fromkeys(B, 0.0)] * 4
    assert (
        search.solve(without_pairs(terms), budget, search_space.uniform(6, 6), 1) is None
    )  # 2 * 36 - 24 = 48
    assert search.best(Budget("1G", (Limit(costs["G"], 1.0),))) is None


@pytest.mark.parametrize("share", [1.0, 1.0 - 1e-12, 1.0 + 1e-12])
def test_a_budget_that_a_configuration_uses_up_exactly_is_kept_exactly(share):
    """The solver has tolerances, a budget none."""
    search_space, costs = (
        make_search_space(space_of(3)),
        CostModel(np.asarray([7, 11, 13]), np.ones(3), 3, 0),
    )
    search = Network(lambda c: divergence(additive_terms(0, 3), c), search_space).search()
    kind = costs.kinds()["G"]
    terms = [{bits: float(-bits) for bits in B}] * 6
    for exact in everything(search_space)[::997]:
        budget = Budget("x", (Limit(kind, share * kind.cost(exact)),))
        found = search.solve(without_pairs(terms), budget)
        if found is None:
            assert budget.load(search_space.lowest) > 1 - 1e-5
        else:
            assert budget.fits(found)


def test_a_network_of_one_or_few_configurations_is_searched(recwarn):
    costs = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()
    budget = Budget("x", (Limit(costs["G"], 60.0),))
    for restrictions in (
        {"pins": [("l*", (4, 3))]},
        {"pins": [("l0", (4, 3)), ("l1", (5, 4))], "max_bits": 5},
        {"groups": [("both", "l*")], "min_bits": 5},
        {"min_bits": 6},
        {"same_bits": ["l*"]},
    ):
        search_space = make_search_space(space_of(2), **restrictions)
        network = Network(lambda c: divergence(additive_terms(2, 2), c), search_space, count=20)
        best = min(
            (c for c in everything(search_space) if c[:, 0] @ c[:, 1] <= 60),
            key=lambda c: network.truth(c[None])[0],
            default=None,
        )
        if best is not None:
            np.testing.assert_array_equal(network.search(FEW).search(budget, 0)[0], best)
    assert not len(recwarn)


def test_a_budget_that_everything_keeps_gives_the_largest():
    search_space = make_search_space(space_of(3))
    network = Network(lambda c: divergence(additive_terms(0, 3), c), search_space)
    costs = CostModel(np.full(3, 10**9), np.ones(3), 0, 0).kinds()
    found = network.search(FEW).search(Budget("x", (Limit(costs["G"], 10**6),)), 0)
    np.testing.assert_array_equal(found[0], search_space.uniform(6, 6))


def test_later_budgets_start_from_what_earlier_ones_found():
    search_space, terms = make_search_space(space_of(5)), additive_terms(8, 5)
    noise = rugged(5)
    network = Network(lambda c: divergence(terms, c) * noise(c) ** 0.1, search_space, count=60)
    costs = CostModel(np.full(5, 10**9), np.ones(5), 0, 0).kinds()
    budget = Budget("x", (Limit(costs["G"], 60.0),))
    search = network.search(FEW)
    first = search.search(budget, 0)
    asked = len(network.asked)
    again = search.search(budget, 1)
    assert network.truth(again[0][None])[0] <= network.truth(first[0][None])[0]
    assert len({c.tobytes() for c in network.asked}) == len(network.asked) > asked


def test_the_same_seed_and_budget_number_ask_the_same():
    search_space, truth = make_search_space(space_of(4)), rugged(3)
    costs = CostModel(np.full(4, 10**9), np.ones(4), 0, 0).kinds()
    budget = Budget("x", (Limit(costs["G"], 60.0),))

    def asked(number, seed):
        network = Network(truth, search_space)
        network.search(PATIENT, seed).search(budget, number)
        return np.stack(network.asked)

    np.testing.assert_array_equal(asked(0, 5), asked(0, 5))
    assert asked(0, 5).tolist() != asked(1, 5).tolist()
    assert asked(0, 5).tolist() != asked(0, 6).tolist()


@pytest.mark.parametrize(
    ("evaluations", "better", "expected"),
    [
        # Halved after each failure; a failure at 2 ends it.
        (40, (), [20, 10, 5, 2]),
        # Twice as wide after a success at 5, then halved again.
        (40, (3,), [20, 10, 5, 10, 5, 2]),
        # Successes at 2 keep it going: twice 2 fails, then 2 fails.
        (40, (4,), [20, 10, 5, 2, 4, 2]),
        # Of 5 rounds the widest are 2 * 10^(1, 3/4, 1/2, 1/4, 0), whatever succeeds.
        (5, (1, 2, 3, 4, 5), [20, 11, 6, 4, 2]),
        (5, (5,), [20, 10, 5, 2]),
        (1, (), [20]),
    ],
)
def test_the_radius_widens_with_success_and_shrinks_to_two(
    monkeypatch, evaluations, better, expected
):
    search_space = make_search_space(space_of(10))  # 20 variables
    network = Network(lambda c: divergence(additive_terms(2, 10), c), search_space, count=100)
    costs = CostModel(np.full(10, 10**9), np.ones(10), 0, 0).kinds()
    budget = Budget("x", (Limit(costs["G"], 120.0),))
    rounds = itertools.count(1)

    def truth(configurations):
        (_,) = configurations  # one proposal a round
        number = next(rounds)
        return np.asarray([10.0**-number if number in better else 1e9])

    chosen = TrustRegionSettings(evaluations=evaluations, proposals=1)
    search = network.search(chosen)
    network.truth = truth
    radii, propose = [], search._propose

    def watched(budget, best, radius, count, rng):
        radii.append(radius)
        return propose(budget, best, radius, count, rng)

    monkeypatch.setattr(search, "_propose", watched)
    search.search(budget, 0)
    assert radii == expected
    assert search.measured == len(expected)


def test_the_model_is_fitted_to_all_but_the_largest():
    search_space = make_search_space(space_of(3))
    network = Network(lambda c: divergence(additive_terms(2, 3), c), search_space)
    search = network.search()
    values = network.truth(network.profile)
    np.testing.assert_allclose(search.quality.measured, log_divergence(values[1:]))
    # Rounding may leave the largest one a little beside 0; it would be an outlier by 5 or more.
    almost = np.where(values == 0, 3e-9, values)
    other = TrustRegionSearch(search_space, network.profile, almost, network.measure, PATIENT, 0)
    np.testing.assert_allclose(other.quality.measured, log_divergence(values[1:]))
