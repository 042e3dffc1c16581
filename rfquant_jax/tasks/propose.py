"""The proposals of the task `search`, by the algorithm of its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.config import settings
from rfquant_jax.config.search_algorithms import ON_PROFILE, search_algorithm
from rfquant_jax.data.sources import Subset
from rfquant_jax.search.greedy import Evaluate, Move
from rfquant_jax.search.prefix import choose_starts
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.profile_search import ProfileSearch
from rfquant_jax.search.propose import Proposal, propose, propose_from_profile
from rfquant_jax.search.record import Recorder
from rfquant_jax.search.search_images import SearchImages
from rfquant_jax.tasks import networks, profile
from rfquant_jax.tasks.measure import candidate_evaluator
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search_images import fresh_batches
from rfquant_jax.tasks.search_log import LoggedEvaluation
from rfquant_jax.tasks.workdir import SEARCH_FOLDER, TRACE_FILE


@dataclass(frozen=True)
class Proposed:
    """What a search proposes.

    Attributes:
      found: the proposals for each budget.
      details: additional entries of each budget's result file.
      moves: moves of the algorithm, if it makes moves.
      model: the searched profile, if there is one.
    """

    found: list[list[Proposal]]
    details: list[dict]
    moves: Sequence[Move] = ()
    model: ProfileSearch | None = None


def proposals(
    run: Run, trained: networks.Trained, problem: SearchProblem, images: SearchImages
) -> Proposed:
    """Runs the algorithm of `config.search.algorithm`.

    Raises:
      Interrupted: a signal was received; evaluations are kept.
    """
    if run.config.search.algorithm == ON_PROFILE:
        return _from_profile(run, trained, problem, images)
    return _from_batches(run, trained, problem, images.proposing[0])


def interruptible(check: Callable[[], object], evaluate: Evaluate) -> Evaluate:
    """The same, but calls `check` first, which raises Interrupted after a signal."""

    def checked(configurations: np.ndarray, iteration: int) -> np.ndarray:
        check()
        return evaluate(configurations, iteration)

    return checked


def _from_batches(
    run: Run, trained: networks.Trained, problem: SearchProblem, part: Subset
) -> Proposed:
    """Searches on new batches; resumes from the record of evaluations."""
    config, log = run.config, run.log
    recorder = _recorder(run, trained, part)
    if recorder.left:
        log.info(f"search: resumes after {recorder.left} recorded iterations")
    log.rewind("search", 0)  # it is logged again, from the record
    total = settings.search_iterations(config, len(problem.budgets))
    with log.progress("search", total) as progress:
        given = log, progress, problem.budgets, config.train.log_every
        evaluate = LoggedEvaluation(recorder, *given)
        layers = len(problem.search_space.space)
        algorithm = search_algorithm(config, layers, evaluate.on_move)
        stated = Problem(problem.search_space, problem.budgets, evaluate, config.seed)
        found = propose(algorithm, stated, config.search.algorithm)
    return Proposed(found, [{} for _ in found], evaluate.moves)


def _recorder(run: Run, trained: networks.Trained, part: Subset) -> Recorder:
    config, metric = run.config, settings.search_metric(run.config)
    starts = choose_starts(run.costs.macs, config.search.starts)
    batches = fresh_batches(config, run.pipeline, part)
    evaluate = candidate_evaluator(run, trained, batches, metric, starts)
    header = {"checkpoint": trained.origin, "metric": metric, "seed": config.seed}
    path = run.workdir / SEARCH_FOLDER / TRACE_FILE
    return Recorder(interruptible(run.stop.check, evaluate), run.plan.space, path, header)


def _from_profile(
    run: Run, trained: networks.Trained, problem: SearchProblem, images: SearchImages
) -> Proposed:
    """Measures missing configurations of the profile, then searches every budget in it."""
    search, snapshot = profile.measured_profile(run, trained, problem, images)
    with run.log.progress("search", len(problem.budgets)) as progress:
        # Counted in budgets: a search may stop early, and the file may hold what it asks for.
        answers = propose_from_profile(search, problem.budgets, progress.advance)
    details = [{"evaluations": a.evaluations, "profile": snapshot} for a in answers]
    return Proposed([a.proposals for a in answers], details, model=search)
