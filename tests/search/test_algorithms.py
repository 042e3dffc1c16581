"""Every algorithm that draws fresh batches, on landscapes whose best answer is known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.search.budget import Budget, CostKind, Limit
from rfquant_jax.search.greedy import GreedySettings, worst_for_nan
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.problem import Problem, greedy_search, sample_within
from rfquant_jax.search.sampling import EvolutionSettings, evolution, random_search
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import (
    B,
    bitops_budgets,
    harm,
    own_activations,
    problem,
    space_of,
)

SCORING = GreedySettings(alpha=1.5, start_bits=5, normalize="minmax", max_iterations=200)
JOINT = replace(SCORING, joint=True)
TIES = [{}, {"groups": [("weights", "l0", "l1")]}, {"same_bits": ["l0"]}]
SMALL = EvolutionSettings(population=12, generations=4, parents=4, mutations=6, crossovers=6)
ALGORITHMS = {
    "greedy": lambda p: greedy_search(p, settings=SCORING, on_move=lambda move, after: None),
    "joint": lambda p: greedy_search(p, settings=JOINT, on_move=lambda move, after: None),
    "random": lambda p: random_search(p, evaluations=30, keep=3, least=0.9),
    "evolution": lambda p: evolution(p, settings=SMALL, scoring=SCORING),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_nothing_is_over_budget_or_against_a_restriction(name, data, seed):
    rng = np.random.default_rng(seed)
    layers = data.draw(st.integers(2, 4))
    # The pin costs 2 above the lowest.
    limits = sorted(4 * layers * (1 + rng.exponential(1.5, 2)) + 2, reverse=True)
    restrictions = data.draw(
        st.sampled_from(
            [
                {},
                {"groups": [("both", "l0", "l1")]},
                {"pins": [("l1", (2, 3))]},
                {"same_bits": ["l*"]},
                {"same_bits": ["l1"], "groups": [("activations", "l0", "l1")]},
            ]
        )
    )

    def noisy(configurations, iteration):
        drawn = np.random.default_rng([seed, iteration])
        errors = drawn.random(len(configurations))
        errors[drawn.random(len(errors)) < 0.1] = np.nan
        return errors

    given_problem = problem(np.ones(layers), *limits, evaluate=noisy, **restrictions)
    found = ALGORITHMS[name](given_problem)
    assert len(found) == 2
    for budget, configurations in zip(given_problem.budgets, found, strict=True):
        assert configurations
        for configuration in configurations:
            assert budget.fits(configuration)
            assert given_problem.search_space.holds(configuration)


@pytest.mark.parametrize("name", ALGORITHMS)
@given(seed=st.integers(0, 10**6), restrictions=st.sampled_from(TIES))
def test_budgets_in_milliseconds_are_kept_wherever_they_can_be(name, seed, restrictions):
    """Measured to a tenth, with fewer bits sometimes slower; the limit is what can just be had."""
    rng = np.random.default_rng(seed)
    table = LatencyTable(rng.integers(1, 30, (2, 5, 5)) / 10, 0.1, B)
    kind = CostKind("ms", "ms", table)
    search_space = make_search_space(space_of(2), **restrictions)
    everything = [np.asarray(c, np.int32).reshape(2, 2) for c in itertools.product(B, repeat=4)]
    lowest = min(table(c) for c in everything if search_space.holds(c))
    budget = Budget("least", (Limit(kind, round(lowest, 3)),))
    given_problem = Problem(
        search_space,
        (budget,),
        lambda configurations, iteration: harm((1, 2), configurations),
        seed,
    )
    for configuration in ALGORITHMS[name](given_problem)[0]:
        assert budget.fits(configuration)
        assert search_space.holds(configuration)


def test_the_published_rule_ends_on_deep_networks_and_noisy_batches():
    published = GreedySettings(alpha=1.5, start_bits=5, normalize="max", max_iterations=20 * 16)

    def noisy(configurations, iteration):
        rate = np.clip(0.1 + harm(np.ones(16), configurations) / 2000, 0, 1)
        return np.random.default_rng(iteration).binomial(256, rate) / 256

    given_problem = problem(np.ones(16), 9.0 * 16, evaluate=noisy)
    ((found,),) = greedy_search(given_problem, settings=published, on_move=lambda move, after: None)
    assert given_problem.budgets[0].fits(found)


@pytest.mark.parametrize("name", ["evolution", "random"])
def test_no_finalist_is_there_twice(name):
    (kept,) = ALGORITHMS[name](problem((1, 1), 1000.0))
    assert len({configuration.tobytes() for configuration in kept}) == len(kept)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_seed_asks_and_answers_the_same(name):
    asked = []

    def evaluate(configurations, iteration):
        asked.append((iteration, configurations.tobytes()))
        return harm([1, 3, 2], configurations)

    first = ALGORITHMS[name](problem([1, 3, 2], 60.0, 30.0, evaluate=evaluate, seed=4))
    half = len(asked)
    second = ALGORITHMS[name](problem([1, 3, 2], 60.0, 30.0, evaluate=evaluate, seed=4))
    assert asked[:half] == asked[half:]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_evolution_comes_closer_than_its_first_generation():
    weights = (1, 5, 2, 8, 1, 3)
    one, many = (
        evolution(
            problem(weights, 90.0, seed=1),
            settings=EvolutionSettings(generations=g),
            scoring=SCORING,
        )[0][0]
        for g in (1, 12)
    )
    assert harm(weights, many[None])[0] < harm(weights, one[None])[0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_evaluated_configuration_has_candidates_of_activations(name):
    asked = []

    def evaluate(configurations, iteration):
        asked.extend(configurations)
        return harm([1, 3, 2], configurations)

    # The smallest cost is 3 layers of 2 * 3.
    given_problem = problem([1, 3, 2], 50.0, 18.5, evaluate=evaluate, space=own_activations(3))
    for budget, kept in zip(given_problem.budgets, ALGORITHMS[name](given_problem), strict=True):
        assert all(budget.fits(configuration) for configuration in kept)
        asked.extend(kept)
    assert {tuple(c[:, 1].tolist()) for c in asked} <= {(3, a, b) for a in (5, 3) for b in (5, 3)}
    assert {int(c[1, 0]) for c in asked} >= {2, 3, 4}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_evaluated_configuration_has_equal_bits_where_asked(name):
    asked = []

    def evaluate(configurations, iteration):
        asked.extend(configurations)
        return harm([1, 3, 2], configurations)

    given_problem = problem([1, 3, 2], 50.0, 20.0, evaluate=evaluate, same_bits=["l0", "l2"])
    found = ALGORITHMS[name](given_problem)
    for configuration in [*asked, *(c for kept in found for c in kept)]:
        assert configuration[[0, 2], 0].tolist() == configuration[[0, 2], 1].tolist()
    assert any(c[1, 0] != c[1, 1] for c in asked)  # the other layer is free


def test_random_search_keeps_the_best_it_drew():
    seen = []

    def evaluate(configurations, iteration):
        errors = harm((1, 2), configurations)
        seen.append(errors)
        return errors

    (kept,) = random_search(
        problem((1, 2), 40.0, evaluate=evaluate), evaluations=50, keep=4, least=0.0
    )
    np.testing.assert_allclose(harm((1, 2), np.stack(kept)), np.sort(seen[0])[:4])


def test_samples_use_up_the_share_that_is_asked_for():
    (budget,) = bitops_budgets(8, 100.0)
    given_problem = problem(np.ones(8), 100.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert 0.9 <= budget.load(sample_within(given_problem, 0, rng, 0.9)) <= 1


def test_a_failed_evaluation_counts_as_the_worst():
    assert worst_for_nan(np.asarray([1.0, np.nan, 3.0, np.inf])).tolist() == [1, 3, 3, 3]
    assert worst_for_nan(np.full(2, np.nan)).tolist() == [0, 0]
