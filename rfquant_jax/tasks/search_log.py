"""The log of a search algorithm: metrics, progress and moves."""

from __future__ import annotations

import math

import numpy as np

from rfquant_jax.report.log import Progress, RunLog
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.greedy import Evaluate, Move


class LoggedEvaluation:
    """Evaluates for an algorithm, and logs progress.

    Args:
      evaluate: errors of configurations on the batch of an iteration.
      log: gets metrics and messages.
      progress: advances with every iteration.
      budgets: largest first.
      every: iterations or moves between progress messages.

    Attributes:
      moves: all moves so far.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        log: RunLog,
        progress: Progress,
        budgets: tuple[Budget, ...],
        every: int,
    ):
        self._evaluate, self._log, self._progress = evaluate, log, progress
        self._budgets, self._every = budgets, every
        self._done, self._start = 0, None
        self.moves: list[Move] = []

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        """Errors of configurations int32[N, L, 2], float[N]."""
        if self._start is None:
            self._start = configurations[0]
        errors = self._evaluate(configurations, iteration)
        self._done += 1
        finite = errors[np.isfinite(errors)]
        failed = len(errors) - len(finite)
        values = {"best": float(finite.min()) if len(finite) else float("nan"), "failed": failed}
        self._log.metrics("search", self._done, values)
        self._progress.advance()
        if failed:
            text = f"search: {failed} of {len(errors)} evaluations were not finite"
            self._log.info(f"{text}; they count as the worst")
        if self._done % self._every == 0 and not self.moves:
            self._progress.report(f"best of {len(errors)}: {values['best']:.4f}")
        return errors

    def on_move(self, move: Move, configuration: np.ndarray) -> None:
        """Stores a move and logs it periodically."""
        self.moves.append(move)
        if len(self.moves) % self._every == 0:
            share = _share_done(self._start, configuration, self._budgets[-1])
            text = self._budgets[move.budget].text
            self._progress.report(f"{text}: {move.phase}, {move.load:.3f} of the budget", share)


def _share_done(start: np.ndarray, now: np.ndarray, tightest: Budget) -> float:
    """Progress from the start to the smallest budget, on a log scale."""
    whole, left = (math.log(max(tightest.load(c), 1.0)) for c in (start, now))
    return 1 - left / whole if whole > 0 else 0.0
