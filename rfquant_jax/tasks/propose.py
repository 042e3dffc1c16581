"""What the task `search` proposes for each budget, from one part of the held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rfquant_jax.config import settings
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.errors import ConfigError
from rfquant_jax.report.log import Progress
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.greedy import Evaluate, Move
from rfquant_jax.search.prefix import choose_starts
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.record import Recorder, Visit
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirm import search_parts
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.workdir import SEARCH_FOLDER, TRACE_FILE


@dataclass(frozen=True)
class Proposals:
    """What a search algorithm came up with.

    Attributes:
      found: for each budget configurations within it, the most promising first.
      moves: those that led there, where the algorithm makes moves.
      visits: every evaluation.
    """

    found: list[list[np.ndarray]]
    moves: list[Move]
    visits: list[Visit]


def search_batches(run: Run) -> TrainingBatches:
    """Batches of held-out images, as evaluation sees them.

    Raises:
      ConfigError: a batch is larger than the part to propose on.
    """
    proposal, _ = search_parts(run)
    size = run.config.search.batch_size
    if size > len(proposal):
        rule = (
            f"must not exceed the {len(proposal)} held-out images to propose on "
            "(data.search_fraction, search.confirm_fraction)"
        )
        raise ConfigError("search.batch_size", size, rule)
    seed = settings.derived_seed(run.config, "search")
    return run.pipeline.training(proposal, size, seed=seed, augment=False, whole=True)


def candidate_evaluator(run: Run, trained: networks.Trained, metric: str) -> CandidateEvaluator:
    """Evaluates candidates on the images to propose on."""
    return CandidateEvaluator(
        trained.pure,
        trained.params,
        run.mesh,
        run.preprocess,
        search_batches(run),
        run.blueprint.space.largest,
        metric,
        choose_starts(run.costs.macs, run.config.search.starts),
    )


def interruptible(run: Run, evaluate: Evaluate) -> Evaluate:
    """The same, but for a signal that came."""

    def checked(configurations: np.ndarray, iteration: int) -> np.ndarray:
        run.stop.check()
        return evaluate(configurations, iteration)

    return checked


def propose(run: Run, origin: str, evaluate: CandidateEvaluator) -> Proposals:
    """Runs the algorithm of `config.search.algorithm`; goes on from the record of evaluations.

    Args:
      origin: the checkpoint that the evaluated network comes from.

    Raises:
      Interrupted: a signal came; what was evaluated is kept.
    """
    config = run.config
    metric = settings.search_metric(config)
    header = {"checkpoint": origin, "metric": metric, "seed": config.seed}
    path = run.workdir / SEARCH_FOLDER / TRACE_FILE
    recorder = Recorder(interruptible(run, evaluate), run.blueprint.space, path, header)
    if recorder.left:
        run.log.info(f"search: goes on after {recorder.left} recorded iterations")
    run.log.rewind("search", 0)  # it is told again, from the record
    moves: list[Move] = []
    total = settings.search_iterations(config, len(run.budgets))
    with run.log.progress("search", total) as progress:
        told = _Told(run, progress, recorder, moves)
        algorithm = settings.search_algorithm(config, len(run.knobs.space), told.on_move)
        problem = Problem(run.knobs, tuple(run.budgets), told, config.seed)
        return Proposals(algorithm(problem), moves, recorder.visits)


class _Told:
    """Evaluates for an algorithm, and tells of it."""

    def __init__(self, run: Run, progress: Progress, evaluate: Callable, moves: list[Move]):
        self._run, self._progress, self._evaluate, self._moves = run, progress, evaluate, moves
        self._done, self._start = 0, None

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        if self._start is None:
            self._start = configurations[0]
        errors = self._evaluate(configurations, iteration)
        self._done += 1
        finite = errors[np.isfinite(errors)]
        failed = len(errors) - len(finite)
        values = {"best": float(finite.min()) if len(finite) else float("nan"), "failed": failed}
        self._run.log.metrics("search", self._done, values)
        self._progress.advance()
        if failed:
            text = f"search: {failed} of {len(errors)} evaluations gave no number"
            self._run.log.info(f"{text}; they count as the worst")
        if self._done % self._run.config.train.log_every == 0 and not self._moves:
            self._progress.report(f"best of {len(errors)}: {values['best']:.4f}")
        return errors

    def on_move(self, move: Move, configuration: np.ndarray) -> None:
        """Keeps a move, and reports it now and then."""
        self._moves.append(move)
        if len(self._moves) % self._run.config.train.log_every == 0:
            share = _share_done(self._start, configuration, self._run.budgets[-1])
            text = self._run.budgets[move.budget].text
            self._progress.report(f"{text}: {move.phase}, {move.load:.3f} of the budget", share)


def _share_done(start: np.ndarray, now: np.ndarray, tightest: Budget) -> float:
    """How much of the way from the start to the tightest budget lies behind, on a log scale."""
    whole, left = (math.log(max(tightest.load(c), 1.0)) for c in (start, now))
    return 1 - left / whole if whole > 0 else 0.0
