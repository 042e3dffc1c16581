"""The interface of search algorithms; their names are in `config/search_algorithms.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rfquant_jax.search.budget import Budget
from rfquant_jax.search.greedy import Evaluate, GreedySearch, GreedySettings, OnMove, cheapest
from rfquant_jax.search.variables import SearchSpace


@dataclass(frozen=True)
class Problem:
    """A search problem: one configuration for each budget.

    Attributes:
      search_space: the variables of the search.
      budgets: reachable budgets, largest first.
      evaluate: errors of configurations on the batch of an iteration.
      seed: seed of random draws.
    """

    search_space: SearchSpace
    budgets: tuple[Budget, ...]
    evaluate: Evaluate
    seed: int = 0

    @cached_property
    def cheapest(self) -> tuple[np.ndarray, ...]:
        """The cheapest configuration for each budget."""
        return tuple(cheapest(self.search_space, budget) for budget in self.budgets)


# For each budget, configurations int32[L, 2] within it, the most promising first. An algorithm is
# deterministic given the problem: with equal answers it asks for equal evaluations.
Algorithm = Callable[[Problem], list[list[np.ndarray]]]


def greedy_search(
    problem: Problem, *, settings: GreedySettings, on_move: OnMove
) -> list[list[np.ndarray]]:
    """The bidirectional greedy search (`greedy.GreedySearch`): one descent for all budgets."""
    search = GreedySearch(
        problem.search_space, settings, problem.budgets, problem.evaluate, on_move=on_move
    )
    return [[configuration] for configuration in search.run()]


def sample_within(
    problem: Problem, number: int, rng: np.random.Generator, least: float = 0.0
) -> np.ndarray:
    """A random configuration within a budget.

    Drawn uniformly; then random variables are lowered until it fits the budget.

    Args:
      number: index of the budget.
      least: fraction of the budget to use, if raising random variables can reach it.
    """
    search_space, budget = problem.search_space, problem.budgets[number]
    configuration = search_space.sample(rng)
    while not budget.fits(configuration):
        moves = search_space.neighbours(configuration)
        lower = [
            (variable, bits) for variable, bits in moves if bits < variable.read(configuration)
        ]
        if not lower:
            return problem.cheapest[number]
        variable, bits = lower[rng.integers(len(lower))]
        configuration = variable.assign(configuration, bits)
    while budget.load(configuration) < least:
        higher = [
            changed
            for variable, bits in search_space.neighbours(configuration)
            if bits > variable.read(configuration)
            for changed in [variable.assign(configuration, bits)]
            if budget.fits(changed)
        ]
        if not higher:
            break
        configuration = higher[rng.integers(len(higher))]
    return configuration
