"""Integer programming: the best sum of one-at-a-time sensitivities within a budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint

from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.greedy import cheapest, nearest_level, worst_for_nan
from rfquant_jax.search.ilp import Choice, Program
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.sensitivity import Sensitivity, measure
from rfquant_jax.search.variables import Knobs


@dataclass(frozen=True)
class IntegerSettings:
    """Constants of `integer_search`.

    Attributes:
      batches: that sensitivities are averaged over.
      rounds: of refinement, each on a batch of its own.
      neighbours: configurations that a round compares with the best so far.
    """

    batches: int = 2
    rounds: int = 10
    neighbours: int = 40


def integer_search(problem: Problem, *, settings: IntegerSettings) -> list[list[np.ndarray]]:
    """Integer programming on sensitivities around the budget's own level, then local search.

    Sensitivities are those of the uniform configuration whose cost is nearest to the budget: far
    from where the answer lies they would say little.

    Returns:
      for each budget the refined configuration, and the one before refinement if it differs.
    """
    found, iteration = [], 0
    for number, budget in enumerate(problem.budgets):
        level = nearest_level(budget, problem.knobs)
        base = problem.knobs.uniform(level, level)
        measured = measure(problem.evaluate, problem.knobs, base, settings.batches, iteration)
        iteration += settings.batches
        start = solve(problem.knobs, budget, measured)
        rng = np.random.default_rng([problem.seed, number])
        refined = _refined(problem, budget, start, settings, rng, iteration)
        iteration += settings.rounds
        found.append([refined] + ([] if np.array_equal(refined, start) else [start]))
    return found


def _refined(
    problem: Problem,
    budget: Budget,
    best: np.ndarray,
    settings: IntegerSettings,
    rng: np.random.Generator,
    iteration: int,
) -> np.ndarray:
    """Moves to a neighbour whenever one has the smaller error on a fresh batch."""
    for number in range(iteration, iteration + settings.rounds):
        options = _neighbours_within(problem.knobs, budget, best)
        if len(options) > settings.neighbours:
            chosen = rng.choice(len(options), settings.neighbours, replace=False)
            options = [options[i] for i in sorted(chosen)]
        if not options:
            break
        errors = worst_for_nan(problem.evaluate(np.stack([best, *options]), number))
        winner = int(np.argmin(errors))  # of equal ones the best so far
        best = best if winner == 0 else options[winner - 1]
    return best


def _neighbours_within(knobs: Knobs, budget: Budget, best: np.ndarray) -> list[np.ndarray]:
    """One knob up where that fits; else one up and another down, using up more of the budget."""
    moves = list(knobs.neighbours(best))
    higher = [move for move in moves if move[1] > move[0].read(best)]
    lower = [move for move in moves if move[1] < move[0].read(best)]
    singles = [knob.turned(best, bits) for knob, bits in higher]
    pairs = [
        down.turned(up.turned(best, more), fewer)
        for (up, more), (down, fewer) in itertools.product(higher, lower)
        if up is not down
    ]
    return [changed for changed in [*singles, *pairs] if budget.fits(changed)]


def solve(knobs: Knobs, budget: Budget, sensitivity: Sensitivity) -> np.ndarray:
    """The configuration within the budget whose knobs' growths of the error add up to least.

    Costs are taken to be sums over layers; the result is within the budget in any case.

    Returns:
      int32[L, 2].
    """
    program = Program.of(knobs)
    objective = _objective(knobs, sensitivity, program.choices)
    loads = [program.loads(limit) for limit in budget.limits]
    # The solver keeps limits to a tolerance of its own; a budget is to be kept exactly.
    for slack in (0.0, 1e-6):
        rows = [LinearConstraint(added[None], -np.inf, 1 - slack - start) for start, added in loads]
        found = program.solve(objective, rows)
        if found is not None and budget.fits(found):
            return found
    return cheapest(knobs, budget)


def _objective(knobs: Knobs, sensitivity: Sensitivity, choices: Sequence[Choice]) -> np.ndarray:
    """Each knob's growth counts once: with the first of its layers."""
    firsts = {
        (knob.layers[0], knob.column): growth
        for knob, growth in zip(knobs.knobs, sensitivity.growth, strict=True)
    }
    return np.asarray(
        [
            firsts.get((c.layer, WEIGHTS), {}).get(c.weight_bits, 0.0)
            + firsts.get((c.layer, ACTIVATIONS), {}).get(c.activation_bits, 0.0)
            for c in choices
        ]
    )
