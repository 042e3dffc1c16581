"""Bidirectional greedy search (method, section 8): plain Python over two functions.

It knows nothing of networks or JAX: `evaluate` and the budgets' costs are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from rfquant_jax.bits import ACTIVATIONS, WEIGHTS, Space
from rfquant_jax.errors import UserError
from rfquant_jax.search.budget import Budget

# evaluate(configurations int32[N, L, 2], iteration) -> error of each, float[N]
Evaluate = Callable[[np.ndarray, int], np.ndarray]
PHASES = ("weights", "activations")
PHASE_SHARE = 0.95  # of the cost at which phase 1 may end


@dataclass(frozen=True)
class GreedySettings:
    """Constants of the search.

    Attributes:
      alpha: weight of the error against the cost.
      start_bits: uniform bit-width the search starts from.
      min_bits: bit-width that no layer falls below.
      normalize: "max" divides error and cost by their maxima over an iteration's candidates,
        "minmax" maps them to [0, 1].
      max_iterations: after so many, only downward moves; 0 never.
    """

    alpha: float
    start_bits: int
    min_bits: int
    normalize: str
    max_iterations: int = 0


@dataclass(frozen=True)
class Move:
    """One accepted step of the search, as it stands in the trace.

    Attributes:
      iteration: counts evaluations of candidates, from 0.
      budget: index of the budget it was made for, in the order of the search.
      phase: "weights" or "activations".
      layer: index of the searched layer.
      bits: the layer's new bit-width in this phase.
      error, score: of the chosen candidate.
      candidates: how many were compared.
      load: cost after the move in units of the budget.
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
    """The state of one descent that serves several budgets, largest first.

    Args:
      space: what may be assigned.
      settings: constants.
      budgets: in the order in which they are reached.
      evaluate: errors of candidate configurations.
      on_move: called after every accepted move, to keep a trace.
      recorded: moves of an earlier, interrupted search, which are repeated without evaluating.

    Attributes:
      configuration: where the search stands, int32[L, 2].
    """

    def __init__(
        self,
        space: Space,
        settings: GreedySettings,
        budgets: Sequence[Budget],
        evaluate: Evaluate,
        *,
        on_move: Callable[[Move], None] = lambda move: None,
        recorded: Iterable[Move] = (),
    ):
        space = space.at_least(settings.min_bits)
        check_reachable(space, budgets)
        self._space, self._settings, self._budgets = space, settings, budgets
        self._evaluate, self._on_move = evaluate, on_move
        self._recorded = list(recorded)
        self.configuration = space.uniform(settings.start_bits, settings.start_bits)
        self._seen = {self.configuration.tobytes()}
        self._down_only = False
        self._iteration = 0

    def run(self) -> list[np.ndarray]:
        """The configuration found for each budget, int32[L, 2], within it."""
        return [self._descend(index, budget) for index, budget in enumerate(self._budgets)]

    def _descend(self, index: int, budget: Budget) -> np.ndarray:
        level = nearest_level(budget, self._space)
        while not self._weights_done(budget, level):
            self._move(index, budget, WEIGHTS)
        while not budget.fits(self.configuration):
            self._move(index, budget, ACTIVATIONS)
        return self.configuration.copy()

    def _weights_done(self, budget: Budget, level: int) -> bool:
        if not budget.moves_activations:
            return budget.fits(self.configuration)
        target = PHASE_SHARE * budget.load(self._space.uniform(level, self._settings.start_bits))
        lowest = budget.load(self._space.floor(self.configuration, WEIGHTS))
        cheap_enough = budget.load(self.configuration) <= max(target, lowest)
        return cheap_enough and budget.fits(self._space.floor(self.configuration, ACTIVATIONS))

    def _move(self, index: int, budget: Budget, column: int) -> None:
        if self._iteration < len(self._recorded):
            move = self._recorded[self._iteration]
            # What the decision took into account must be repeated, too.
            self._candidates(column)
            self._apply(move.layer, column, move.bits)
            return
        candidates = self._candidates(column)
        errors = np.asarray(
            self._evaluate(np.stack([self._with(*c) for c in candidates]), self._iteration),
            np.float64,
        )
        loads = np.asarray([budget.load(self._with(*c)) for c in candidates])
        scores = score(errors, loads, self._settings)
        best = int(np.argmin(scores))
        layer, column, bits = candidates[best]
        move = Move(
            iteration=self._iteration,
            budget=index,
            phase=PHASES[column],
            layer=layer,
            bits=bits,
            error=float(errors[best]),
            score=float(scores[best]),
            candidates=len(candidates),
            load=float(loads[best]),
        )
        self._apply(layer, column, bits)
        self._on_move(move)

    def _apply(self, layer: int, column: int, bits: int) -> None:
        self.configuration = self._with(layer, column, bits)
        self._seen.add(self.configuration.tobytes())
        self._iteration += 1

    def _with(self, layer: int, column: int, bits: int) -> np.ndarray:
        configuration = self.configuration.copy()
        configuration[layer, column] = bits
        return configuration

    def _candidates(self, column: int) -> list[tuple[int, int, int]]:
        """(layer, column, bits) of the moves to compare; earlier layers first, down before up."""
        limit = self._settings.max_iterations
        if limit and self._iteration >= limit:
            self._down_only = True
        moves = list(self._neighbours(column))
        if not self._down_only:
            fresh = [m for m in moves if self._with(*m).tobytes() not in self._seen]
            if fresh:
                return fresh
            self._down_only = True
        return [m for m in moves if m[2] < self.configuration[m[0], column]]

    def _neighbours(self, column: int) -> Iterable[tuple[int, int, int]]:
        for layer in range(len(self._space)):
            allowed = self._space.allowed(layer)
            position = allowed.index(self.configuration[layer, column])
            if position + 1 < len(allowed):
                yield layer, column, allowed[position + 1]
            if position > 0:
                yield layer, column, allowed[position - 1]


def nearest_level(budget: Budget, space: Space) -> int:
    """The uniform bit-width whose cost is nearest to the budget; ties go upward."""
    return min(
        sorted(space.candidates, reverse=True),
        key=lambda bits: abs(budget.load(space.uniform(bits, bits)) - 1),
    )


def score(errors: np.ndarray, loads: np.ndarray, settings: GreedySettings) -> np.ndarray:
    """`alpha * err + cost`, each normalised over the candidates; the smallest is best.

    A term whose maximum (or range) is zero is left out. An error that is not a number counts as
    the worst.
    """
    finite = errors[np.isfinite(errors)]
    errors = np.where(np.isfinite(errors), errors, finite.max() if len(finite) else 0.0)

    def normalized(values: np.ndarray) -> np.ndarray:
        low = values.min() if settings.normalize == "minmax" else 0.0
        span = values.max() - low
        return (values - low) / span if span > 0 else np.zeros_like(values)

    return settings.alpha * normalized(errors) + normalized(loads)


def check_reachable(space: Space, budgets: Sequence[Budget]) -> None:
    """Refuses budgets below the cheapest configuration of the space.

    Raises:
      UserError: names the smallest and the largest reachable cost.
    """
    dearest = space.uniform(max(space.candidates), max(space.candidates))
    cheapest = space.floor(space.floor(dearest, WEIGHTS), ACTIVATIONS)
    for budget in budgets:
        if not budget.fits(cheapest):
            raise UserError(
                f"config.search.budgets: {budget.text} cannot be reached; configurations of this "
                f"network cost from {budget.describe(cheapest)} to {budget.describe(dearest)}"
            )
