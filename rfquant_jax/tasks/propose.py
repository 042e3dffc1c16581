"""Proposals of the task `search` for each budget, by algorithms that use new batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.config import settings
from rfquant_jax.config.search_algorithms import search_algorithm
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.data.sources import Subset
from rfquant_jax.report.log import Progress
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.greedy import Evaluate, Move
from rfquant_jax.search.prefix import choose_starts
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.record import Recorder
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import SEARCH_FOLDER, TRACE_FILE


@dataclass(frozen=True)
class Proposal:
    """A configuration proposed for a budget.

    Attributes:
      name: its origin.
      configuration: int32[L, 2].
      part: index of the proposing images, see `confirm.SearchImages`.
    """

    name: str
    configuration: np.ndarray
    part: int


@dataclass(frozen=True)
class Proposals:
    """Results of a search algorithm.

    Attributes:
      found: for each budget, configurations within it, the most promising first.
      moves: moves of the algorithm, if it makes moves.
      details: additional entries of each budget's result file.
    """

    found: list[list[Proposal]]
    moves: list[Move]
    details: list[dict]


def fresh_batches(run: Run, part: Subset) -> TrainingBatches:
    """Shuffled batches of a part, with the evaluation transform."""
    seed = settings.derived_seed(run.config, "search")
    size = min(run.config.search.batch_size, len(part))
    return run.pipeline.training(part, size, seed=seed, augment=False, whole=True)


def candidate_evaluator(
    run: Run,
    trained: networks.Trained,
    batches: object,
    metric: str,
    starts: Sequence[int] = (0,),
) -> CandidateEvaluator:
    """Evaluates candidates on batches by index.

    Args:
      starts: layers before which an evaluation may start, see `prefix.choose_starts`.
    """
    return CandidateEvaluator(
        trained.functional,
        trained.params,
        run.mesh,
        run.preprocess,
        batches,
        run.plan.space.largest,
        metric,
        starts,
    )


def interruptible(run: Run, evaluate: Evaluate) -> Evaluate:
    """The same, but raises Interrupted after a signal."""

    def checked(configurations: np.ndarray, iteration: int) -> np.ndarray:
        run.stop.check()
        return evaluate(configurations, iteration)

    return checked


def propose(run: Run, trained: networks.Trained, part: Subset) -> Proposals:
    """Runs the algorithm of `config.search.algorithm`; resumes from the record of evaluations.

    Args:
      part: the proposing images.

    Raises:
      Interrupted: a signal was received; evaluations are kept.
    """
    config, metric = run.config, settings.search_metric(run.config)
    starts = choose_starts(run.costs.macs, config.search.starts)
    evaluate = candidate_evaluator(run, trained, fresh_batches(run, part), metric, starts)
    header = {"checkpoint": trained.origin, "metric": metric, "seed": config.seed}
    path = run.workdir / SEARCH_FOLDER / TRACE_FILE
    recorder = Recorder(interruptible(run, evaluate), run.plan.space, path, header)
    if recorder.left:
        run.log.info(f"search: resumes after {recorder.left} recorded iterations")
    run.log.rewind("search", 0)  # it is logged again, from the record
    moves: list[Move] = []
    total = settings.search_iterations(config, len(run.budgets))
    with run.log.progress("search", total) as progress:
        told = _Told(run, progress, recorder, moves)
        algorithm = search_algorithm(config, len(run.search_space.space), told.on_move)
        found = algorithm(Problem(run.search_space, tuple(run.budgets), told, config.seed))
    named = [_named(run, found, index) for index in range(len(found))]
    return Proposals(named, moves, [{} for _ in found])


def _named(run: Run, found: list[list[np.ndarray]], index: int) -> list[Proposal]:
    """Proposals for a budget: its own, and the best of smaller budgets that fit this one."""
    algorithm, budget = run.config.search.algorithm, run.budgets[index]
    proposals = []
    for place, configuration in enumerate(found[index]):
        number = f" #{place + 1}" if place else ""
        proposals.append(Proposal(f"{algorithm} {budget.text}{number}", configuration, 0))
    for tighter in range(index + 1, len(found)):
        if budget.fits(found[tighter][0]):
            name = f"{algorithm} {run.budgets[tighter].text}"
            proposals.append(Proposal(name, found[tighter][0], 0))
    return proposals


class _Told:
    """Evaluates for an algorithm, and logs progress."""

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
            text = f"search: {failed} of {len(errors)} evaluations were not finite"
            self._run.log.info(f"{text}; they count as the worst")
        if self._done % self._run.config.train.log_every == 0 and not self._moves:
            self._progress.report(f"best of {len(errors)}: {values['best']:.4f}")
        return errors

    def on_move(self, move: Move, configuration: np.ndarray) -> None:
        """Stores a move and logs it periodically."""
        self._moves.append(move)
        if len(self._moves) % self._run.config.train.log_every == 0:
            share = _share_done(self._start, configuration, self._run.budgets[-1])
            text = self._run.budgets[move.budget].text
            self._progress.report(f"{text}: {move.phase}, {move.load:.3f} of the budget", share)


def _share_done(start: np.ndarray, now: np.ndarray, tightest: Budget) -> float:
    """Progress from the start to the smallest budget, on a log scale."""
    whole, left = (math.log(max(tightest.load(c), 1.0)) for c in (start, now))
    return 1 - left / whole if whole > 0 else 0.0
