"""What every search algorithm is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rfquant_jax.bits import ACTIVATIONS, WEIGHTS
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.greedy import Evaluate, GreedySearch, GreedySettings, OnMove, cheapest
from rfquant_jax.search.knobs import Knobs


@dataclass(frozen=True)
class Problem:
    """Configurations to find, one for each budget.

    Attributes:
      knobs: what may be turned.
      budgets: all within reach, the loosest first.
      evaluate: errors of configurations on the batch of an iteration.
      seed: of whatever an algorithm draws.
    """

    knobs: Knobs
    budgets: tuple[Budget, ...]
    evaluate: Evaluate
    seed: int = 0


# For each budget configurations within it, int32[L, 2], the most promising first. An algorithm is a
# function of the problem alone: its evaluations repeat where its answers are the same.
Algorithm = Callable[[Problem], list[list[np.ndarray]]]


def greedy_search(
    problem: Problem, *, settings: GreedySettings, on_move: OnMove
) -> list[list[np.ndarray]]:
    """The bidirectional greedy search (`greedy.GreedySearch`): one descent for all budgets."""
    search = GreedySearch(
        problem.knobs, settings, problem.budgets, problem.evaluate, on_move=on_move
    )
    return [[configuration] for configuration in search.run()]


def sample_within(
    knobs: Knobs, budget: Budget, rng: np.random.Generator, least: float = 0.0
) -> np.ndarray:
    """A random configuration within a budget.

    Drawn evenly, then brought into the budget by turning random knobs down.

    Args:
      least: share of the budget to use up, as far as turning random knobs up can reach it.
    """
    configuration = knobs.sample(rng)
    while not budget.fits(configuration):
        lower = [(k, b) for k, b in _moves(knobs, configuration) if b < k.read(configuration)]
        if not lower:
            return cheapest(knobs, budget)
        knob, bits = lower[rng.integers(len(lower))]
        configuration = knob.turned(configuration, bits)
    while budget.load(configuration) < least:
        higher = [
            changed
            for knob, bits in _moves(knobs, configuration)
            if bits > knob.read(configuration)
            for changed in [knob.turned(configuration, bits)]
            if budget.fits(changed)
        ]
        if not higher:
            break
        configuration = higher[rng.integers(len(higher))]
    return configuration


def _moves(knobs: Knobs, configuration: np.ndarray):
    return knobs.neighbours(configuration, WEIGHTS, ACTIVATIONS)


def worst_for_nan(errors: np.ndarray) -> np.ndarray:
    """Errors with the largest one in place of those that are not finite."""
    errors = np.asarray(errors, np.float64)
    finite = errors[np.isfinite(errors)]
    return np.where(np.isfinite(errors), errors, finite.max() if len(finite) else 0.0)
