"""Baselines that sample configurations: random search and evolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfquant_jax.runtime.setting import FRACTION, at_least, documented, setting
from rfquant_jax.search.greedy import GreedySettings, score, worst_for_nan
from rfquant_jax.search.problem import Problem, sample_within


def random_search(
    problem: Problem, *, evaluations: int, keep: int, least: float
) -> list[list[np.ndarray]]:
    """Draws configurations within each budget and keeps the best ones on one batch.

    Args:
      evaluations: configurations drawn for each budget.
      keep: number of configurations returned.
      least: fraction of the budget that they use.
    """
    found = []
    for number in range(len(problem.budgets)):
        rng = np.random.default_rng([problem.seed, number])
        drawn = [sample_within(problem, number, rng, least) for _ in range(evaluations)]
        errors = worst_for_nan(problem.evaluate(np.stack(drawn), number))
        best = np.argsort(errors, kind="stable")
        found.append(_different([drawn[i] for i in best], keep))
    return found


@documented
@dataclass(frozen=True)
class EvolutionSettings:
    """Settings of the evolution."""

    population: int = setting(50, "configurations per generation", at_least(1))
    generations: int = setting(20, "number of generations", at_least(1))
    parents: int = setting(
        10, "survivors per generation; also the number of configurations returned", at_least(1)
    )
    mutations: int = setting(25, "children by mutation per generation")
    crossovers: int = setting(25, "children by crossover per generation")
    probability: float = setting(0.2, "probability that a mutation changes a variable", FRACTION)
    least: float = setting(
        0.95, "fraction of the budget that every configuration uses, if possible", FRACTION
    )


def evolution(
    problem: Problem, *, settings: EvolutionSettings, scoring: GreedySettings
) -> list[list[np.ndarray]]:
    """Evolves configurations within each budget.

    Each generation uses another batch, and only errors on the same batch are comparable. So parents
    are evaluated again with their children.
    """
    found, iteration = [], 0
    for number, budget in enumerate(problem.budgets):
        rng = np.random.default_rng([problem.seed, number])
        sample = [
            sample_within(problem, number, rng, settings.least) for _ in range(settings.population)
        ]
        for generation in range(settings.generations):
            errors = np.asarray(problem.evaluate(np.stack(sample), iteration), np.float64)
            iteration += 1
            loads = np.asarray([budget.load(configuration) for configuration in sample])
            order = np.argsort(score(errors, loads, scoring), kind="stable")
            parents = _different([sample[i] for i in order], settings.parents)
            if generation + 1 < settings.generations:
                sample = parents + _children(problem, number, parents, settings, rng)
        found.append(parents)
    return found


def _different(configurations: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The first `count` distinct configurations."""
    found: dict[bytes, np.ndarray] = {}
    for configuration in configurations:
        found.setdefault(configuration.tobytes(), configuration)
    return list(found.values())[:count]


def _children(
    problem: Problem,
    number: int,
    parents: list[np.ndarray],
    settings: EvolutionSettings,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Mutations and crossovers within the budget, or new random configurations if none is found."""
    search_space, budget = problem.search_space, problem.budgets[number]

    def mutated() -> np.ndarray:
        parent = parents[rng.integers(len(parents))]
        return search_space.set(
            lambda variable: (
                int(rng.choice(variable.allowed))
                if rng.random() < settings.probability
                else variable.read(parent)
            )
        )

    def crossed() -> np.ndarray:
        pair = [parents[rng.integers(len(parents))] for _ in range(2)]
        return search_space.set(lambda variable: variable.read(pair[rng.integers(2)]))

    children = []
    for make, count in ((mutated, settings.mutations), (crossed, settings.crossovers)):
        for _ in range(count):
            tries = (make() for _ in range(20))
            inside = (c for c in tries if settings.least <= budget.load(c) and budget.fits(c))
            child = next(inside, None)
            if child is None:
                child = sample_within(problem, number, rng, settings.least)
            children.append(child)
    return children
