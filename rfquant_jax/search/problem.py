"""What every search algorithm is given, and what it gives back."""

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
    """Configurations to find, one for each budget.

    Attributes:
      search_space: what may be turned.
      budgets: all within reach, the loosest first.
      evaluate: errors of configurations on the batch of an iteration.
      seed: of whatever an algorithm draws.
    """

    search_space: SearchSpace
    budgets: tuple[Budget, ...]
    evaluate: Evaluate
    seed: int = 0

    @cached_property
    def cheapest(self) -> tuple[np.ndarray, ...]:
        """For each budget the configuration that uses up least of it."""
        return tuple(cheapest(self.search_space, budget) for budget in self.budgets)


# For each budget configurations within it, int32[L, 2], the most promising first. An algorithm is a
# function of the problem alone: its evaluations repeat where its answers are the same.
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

    Drawn evenly, then brought into the budget by turning random variables down.

    Args:
      number: of the budget.
      least: share of the budget to use up, as far as turning random variables up can reach it.
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
