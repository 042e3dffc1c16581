"""The bidirectional greedy search of RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).

Independent of networks and JAX: it only calls `evaluate` and the cost functions of the budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from rfquant_jax.errors import UserError
from rfquant_jax.quant.space import ACTIVATIONS, COLUMN_NAMES, WEIGHTS
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.ilp import least_load
from rfquant_jax.search.variables import SearchSpace, SearchVariable

# evaluate(configurations int32[N, L, 2], iteration) -> error of each, float[N]
Evaluate = Callable[[np.ndarray, int], np.ndarray]
NORMALIZATIONS = MAX, MINMAX = "max", "minmax"
PHASE_SHARE = 0.95  # fraction of the cost at which phase 1 may end


@dataclass(frozen=True)
class GreedySettings:
    """Settings of the greedy search.

    Attributes:
      alpha: weight of the error relative to the cost.
      start_bits: initial uniform bit-width.
      normalize: "max" divides error and cost by their maxima over an iteration's candidates,
        "minmax" maps them to [0, 1].
      max_iterations: number of iterations after which only downward moves are made; 0: unlimited.
      joint: weights and activations move in a single phase.
    """

    alpha: float
    start_bits: int
    normalize: str
    max_iterations: int = 0
    joint: bool = False


# on_move(move, configuration after the move)
OnMove = Callable[["Move", np.ndarray], None]


@dataclass(frozen=True)
class Move:
    """One accepted move of the search.

    Attributes:
      iteration: index of the evaluation of candidates, from 0.
      budget: index of the budget, in the order of the search.
      phase: "weights" or "activations", whichever moved.
      layer: index of the searched layer, or of the first of several tied ones.
      bits: its new bit-width.
      error, score: error and score of the chosen candidate.
      candidates: number of candidates compared.
      load: cost after the move as a fraction of the budget.
    """

    iteration: int
    budget: int
    phase: str
    layer: int
    bits: int
    error: float
    score: float
    candidates: int
    load: float

    def as_dict(self) -> dict:
        return asdict(self)


class GreedySearch:
    """The state of one descent through several budgets, largest first.

    Args:
      search_space: the variables of the search.
      settings: settings of the search.
      budgets: in descending order.
      evaluate: errors of candidate configurations.
      on_move: called after every accepted move, with the new configuration.

    Attributes:
      configuration: the current configuration, int32[L, 2].
    """

    def __init__(
        self,
        search_space: SearchSpace,
        settings: GreedySettings,
        budgets: Sequence[Budget],
        evaluate: Evaluate,
        *,
        on_move: OnMove = lambda move, configuration: None,
    ):
        check_reachable(search_space, budgets)
        self._search_space, self._settings, self._budgets = search_space, settings, budgets
        self._evaluate, self._on_move = evaluate, on_move
        self.configuration = search_space.uniform(settings.start_bits, settings.start_bits)
        self._seen = {self.configuration.tobytes()}
        self._down_only = False
        self._iteration = 0

    def run(self) -> list[np.ndarray]:
        """Runs the search; returns a configuration int32[L, 2] within each budget."""
        return [self._descend(index, budget) for index, budget in enumerate(self._budgets)]

    def _descend(self, index: int, budget: Budget) -> np.ndarray:
        if self._settings.joint and budget.moves_activations:
            self._until_it_fits(index, budget, None)
        else:
            level = nearest_level(budget, self._search_space)
            while not self._weights_done(budget, level) and self._move(index, budget, WEIGHTS):
                pass
            self._until_it_fits(index, budget, ACTIVATIONS)
        if not budget.fits(self.configuration):
            # Only possible if fewer bits can cost more, as in measured latencies.
            self.configuration = cheapest(self._search_space, budget)
        return self.configuration.copy()

    def _until_it_fits(self, index: int, budget: Budget, column: int | None) -> None:
        while not budget.fits(self.configuration) and self._move(index, budget, column):
            pass

    def _weights_done(self, budget: Budget, level: int) -> bool:
        if not budget.moves_activations:
            return budget.fits(self.configuration)
        target = PHASE_SHARE * budget.load(
            self._search_space.uniform(level, self._settings.start_bits)
        )
        lowest = budget.load(self._search_space.floor(self.configuration, WEIGHTS))
        cheap_enough = budget.load(self.configuration) <= max(target, lowest)
        return cheap_enough and budget.fits(
            self._search_space.floor(self.configuration, ACTIVATIONS)
        )

    def _move(self, index: int, budget: Budget, column: int | None) -> bool:
        """Makes the best move of a phase, or of both if None; returns False if there is no move."""
        candidates = self._candidates(column)
        if not candidates:
            return False
        configurations = np.stack(
            [variable.assign(self.configuration, b) for variable, b in candidates]
        )
        errors = np.asarray(self._evaluate(configurations, self._iteration), np.float64)
        loads = np.asarray([budget.load(configuration) for configuration in configurations])
        scores = score(errors, loads, self._settings)
        best = int(np.argmin(scores))
        variable, bits = candidates[best]
        move = Move(
            iteration=self._iteration,
            budget=index,
            phase=COLUMN_NAMES[variable.column],
            layer=variable.layers[0],
            bits=bits,
            error=float(errors[best]),
            score=float(scores[best]),
            candidates=len(candidates),
            load=float(loads[best]),
        )
        self._apply(variable, bits)
        self._on_move(move, self.configuration)
        return True

    def _apply(self, variable: SearchVariable, bits: int) -> None:
        self.configuration = variable.assign(self.configuration, bits)
        self._seen.add(self.configuration.tobytes())
        self._iteration += 1

    def _candidates(self, column: int | None) -> list[tuple[SearchVariable, int]]:
        """The moves to compare: weights first, earlier layers first, down before up."""
        limit = self._settings.max_iterations
        if limit and self._iteration >= limit:
            self._down_only = True
        moves = list(self._search_space.neighbours(self.configuration, column))
        if not self._down_only:
            fresh = [
                (variable, bits)
                for variable, bits in moves
                if variable.assign(self.configuration, bits).tobytes() not in self._seen
            ]
            if fresh:
                return fresh
            self._down_only = True
        return [
            (variable, bits) for variable, bits in moves if bits < variable.read(self.configuration)
        ]


def nearest_level(budget: Budget, search_space: SearchSpace) -> int:
    """The uniform bit-width with the cost nearest to the budget; ties go to the larger one."""
    return min(
        sorted(search_space.space.candidates, reverse=True),
        key=lambda bits: abs(budget.load(search_space.uniform(bits, bits)) - 1),
    )


def score(errors: np.ndarray, loads: np.ndarray, settings: GreedySettings) -> np.ndarray:
    """`alpha * err + cost`, each normalised over the candidates; the smallest is best.

    A term whose maximum (or range) is zero is dropped. A NaN error counts as the worst error.
    """
    errors = worst_for_nan(errors)

    def normalized(values: np.ndarray) -> np.ndarray:
        low = values.min() if settings.normalize == MINMAX else 0.0
        span = values.max() - low
        return (values - low) / span if span > 0 else np.zeros_like(values)

    return settings.alpha * normalized(errors) + normalized(loads)


def worst_for_nan(errors: np.ndarray) -> np.ndarray:
    """The errors, with non-finite ones replaced by the largest finite one."""
    errors = np.asarray(errors, np.float64)
    finite = errors[np.isfinite(errors)]
    return np.where(np.isfinite(errors), errors, finite.max() if len(finite) else 0.0)


def cheapest(search_space: SearchSpace, budget: Budget) -> np.ndarray:
    """The configuration with the smallest cost relative to a budget.

    Exact; if fewer bits can cost more, costs must be sums over layers.
    """
    lowest = search_space.lowest
    if all(limit.kind.monotone for limit in budget.limits):
        return lowest
    found = least_load(search_space, budget.limits)
    return lowest if found is None or budget.load(lowest) <= budget.load(found) else found


def check_reachable(search_space: SearchSpace, budgets: Sequence[Budget]) -> None:
    """Checks that every budget can be reached.

    Raises:
      UserError: a budget is below the cheapest configuration; names the reachable range.
    """
    for budget in budgets:
        if not budget.fits(cheapest(search_space, budget)):
            lowest, highest = reachable(search_space, budget)
            raise UserError(
                f"`budgets`: {budget.text} cannot be reached; configurations of this "
                f"network cost from {lowest} to {highest}"
            )


def reachable(search_space: SearchSpace, budget: Budget) -> tuple[str, str]:
    """The smallest cost and the cost of the largest bit-widths, in the budget's units."""
    most = max(search_space.space.candidates)
    return budget.describe(cheapest(search_space, budget)), budget.describe(
        search_space.uniform(most, most)
    )
