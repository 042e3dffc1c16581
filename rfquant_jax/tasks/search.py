"""The task `search`: one configuration for each budget, confirmed on held-out images."""

from __future__ import annotations

import numpy as np

from rfquant_jax.checkpoint.checkpoints import TRAIN
from rfquant_jax.data.sources import Source
from rfquant_jax.evaluate.evaluator import Outcomes
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.extras import missing
from rfquant_jax.runtime.json_files import read_json, write_json
from rfquant_jax.search.confirm import Confirmation
from rfquant_jax.search.finalists import proposed_finalists, uniform_finalists
from rfquant_jax.search.greedy import check_reachable, reachable
from rfquant_jax.search.search_images import SearchImages
from rfquant_jax.search.selection import confirm
from rfquant_jax.tasks import networks, search_results
from rfquant_jax.tasks.curve import write_curve, write_model
from rfquant_jax.tasks.measure import Measured, full_precision, measured
from rfquant_jax.tasks.plots import draw
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.profile import copied
from rfquant_jax.tasks.profile_key import confirmed_header
from rfquant_jax.tasks.propose import Proposed, proposals
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search_images import split_held_out
from rfquant_jax.tasks.workdir import CONFIRMED_FILE, SEARCH_FOLDER


def search(run: Run) -> list[dict]:
    """Searches for every budget of the config and writes one JSON file for each.

    Returns:
      the contents of the files, largest budget first.

    Raises:
      CheckpointError: there is no coupled network.
      Interrupted: a signal was received; evaluations are kept.
    """
    run.claim()
    given = run.workdir, run.plan.space, run.budgets
    found = search_results.results(*given, networks.origin(run, TRAIN))
    if found is not None:
        run.log.info(f"search: finished before, for {len(found)} budgets")
        return found
    _search(run)
    devices.barrier("results")
    return [read_json(search_results.result_file(run.workdir, budget)) for budget in run.budgets]


def searched_problem(run: Run, trained: networks.Trained) -> SearchProblem:
    """The problem, without frozen bit-widths if the config asks for it."""
    if run.config.search.use_frozen:
        return run.problem
    run.log_once("search: frozen bit-widths are excluded (search.use_frozen)")
    return run.problem.without_frozen(trained.masks)


def confirmation(run: Run, coupled: Measured, images: Source) -> Confirmation:
    """Recalibrates and evaluates configurations; results are kept in the workdir."""
    trained = coupled.trained

    def outcomes(configuration: np.ndarray) -> Outcomes:
        run.stop.check()
        return coupled.measure.outcomes(images, trained.params, configuration)

    header = confirmed_header(run, trained.origin, len(images))
    path = run.workdir / SEARCH_FOLDER / CONFIRMED_FILE
    if run.config.checkpoint:  # the other run may have confirmed the same configurations
        copied(networks.other_run(run) / SEARCH_FOLDER / CONFIRMED_FILE, path, header)
    return Confirmation(outcomes, run.plan.space, len(images), header, path)


def _search(run: Run) -> None:
    coupled = measured(run, TRAIN)
    trained = coupled.trained
    problem = searched_problem(run, trained)
    check_reachable(problem.search_space, problem.budgets)
    for budget in problem.budgets:
        ends = reachable(problem.search_space, budget)
        run.log.info(f"search: {budget.text}: within reach are {' to '.join(ends)}")
    images = split_held_out(run.config, run.data.held_out)
    proposed = proposals(run, trained, problem, images)
    confirmed = confirmation(run, coupled, images.confirming)
    found = _answers(problem, images, proposed, confirmed, trained.origin, run.log)
    curve = None
    if proposed.model is not None:
        write_model(run.workdir, problem, proposed.model, trained.origin, run.log)
        points = run.config.search.frontier_points
        given = run.workdir, problem, proposed.model, confirmed
        curve = write_curve(*given, trained.origin, points)
    if lack := missing("matplotlib"):
        run.log.info(f"no plots: {lack}")
    else:
        draw(run.workdir, problem, found, curve, full_precision(run, images.confirming))
    # Last, because these files mark the search as finished.
    for budget, result in zip(problem.budgets, found, strict=True):
        write_json(search_results.result_file(run.workdir, budget), result)


def _answers(
    problem: SearchProblem,
    images: SearchImages,
    proposed: Proposed,
    confirmed: Confirmation,
    checkpoint: str,
    log: RunLog,
) -> list[dict]:
    """The content of each budget's result file."""
    answers, names = [], problem.plan.space.names
    divergences = None if proposed.model is None else proposed.model.divergences
    for index, budget in enumerate(problem.budgets):
        finalists = proposed_finalists(proposed.found[index], images)
        uniform = uniform_finalists(problem.search_space, budget, images, divergences)
        found = confirm(finalists, uniform, confirmed)
        log.info(f"search: {budget.text}: {search_results.verdict(budget, found)}")
        result = search_results.content(problem, budget, found, checkpoint)
        moves = [move for move in proposed.moves if move.budget == index]
        trace = [m.as_dict() | {"layer": names[m.layer]} for m in moves]
        answers.append(result | proposed.details[index] | {"trace": trace})
    return answers
