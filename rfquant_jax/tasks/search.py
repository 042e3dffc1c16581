"""The task `search`: one configuration for each budget, confirmed on held-out images."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from rfquant_jax.checkpoint.checkpoints import TRAIN
from rfquant_jax.config import settings
from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.runtime import devices
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.frontier import frontier, rank_correlations
from rfquant_jax.search.greedy import Move, check_reachable, reachable
from rfquant_jax.search.record import Visit
from rfquant_jax.search.variables import without_frozen
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirm import Confirmation, figures
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.plots import draw, write_sensitivity
from rfquant_jax.tasks.propose import candidate_evaluator, propose
from rfquant_jax.tasks.workdir import FRONTIER_FILE, SEARCH_FOLDER, read_json, write_json

EQUAL_COST = 0.9  # of a budget: a uniform configuration that uses up so much is its equal


def search(run: Run) -> list[dict]:
    """Searches for every budget of the config and writes one JSON file for each.

    Returns:
      the files' contents, that for the loosest budget first.

    Raises:
      CheckpointError: there is no coupled network.
      Interrupted: a signal came; the trace up to here is kept.
    """
    run.claim()
    found = results(run, networks.origin(run, TRAIN))
    if found is not None:
        run.log.info(f"search: finished before, for {len(found)} budgets")
        return found
    _search(run)
    devices.barrier("results")
    return [read_json(result_file(run, budget)) for budget in run.budgets]


def results(run: Run, checkpoint: str) -> list[dict] | None:
    """What was found for every budget, the loosest first; None unless all of it still holds.

    A network that was trained on after the search makes its results worthless, and so do other
    latencies that take a configuration out of its budget.

    Args:
      checkpoint: where the network is from, see `networks.origin`.

    Raises:
      UserError: a file cannot be read.
    """
    files = [result_file(run, budget) for budget in run.budgets]
    if not all(file.exists() for file in files):
        return None
    found = [read_json(file) for file in files]
    if not all(isinstance(r, dict) and r.get("checkpoint") == checkpoint for r in found):
        return None
    pairs = zip(run.budgets, files, found, strict=True)
    space = run.blueprint.space
    fit = all(b.fits(space.from_json(r, source=str(file))) for b, file, r in pairs)
    return found if fit else None


def _search(run: Run) -> None:
    trained = networks.coupled(run)
    if not run.config.search.use_frozen:
        run.knobs = without_frozen(run.knobs, trained.masks)
        run.log.info("search: without the bit-widths that are frozen (search.use_frozen)")
        check_reachable(run.knobs, run.budgets)
    for budget in run.budgets:
        ends = reachable(run.knobs, budget)
        run.log.info(f"search: {budget.text}: within reach are {' to '.join(ends)}")
    evaluate = candidate_evaluator(run, trained, settings.search_metric(run.config))
    proposals = propose(run, trained.origin, evaluate)
    write_sensitivity(run, evaluate.by("cross_entropy"), trained.origin)
    confirmed = Confirmation(run, trained)
    found = []
    for index, budget in enumerate(run.budgets):
        moves = [move for move in proposals.moves if move.budget == index]
        finalists = _finalists(run, proposals.found, index)
        found.append(_confirmed_best(run, confirmed, budget, finalists, moves))
    points = write_frontier(run, confirmed, proposals.visits)
    draw(run, found, points, confirmed.images)
    # Last of all, because they say that the search is finished.
    for budget, result in zip(run.budgets, found, strict=True):
        write_json(result_file(run, budget), result)


def result_file(run: Run, budget: Budget) -> Path:
    """Where the configuration found for a budget is written."""
    name = re.sub(r"[^\w.]+", "_", budget.text.replace("*", "x"))
    return run.workdir / SEARCH_FOLDER / f"{name}.json"


def _finalists(run: Run, found: list[list[np.ndarray]], index: int) -> dict[str, np.ndarray]:
    """Configurations within a budget that compete for it, by where they come from.

    The uniform one with the most bits; what the search found; and the best it found for tighter
    budgets, which is within this one, too.
    """
    budget, algorithm = run.budgets[index], run.config.search.algorithm
    finalists = {}
    for place, configuration in enumerate(found[index]):
        number = f" #{place + 1}" if place else ""
        finalists[f"{algorithm} {budget.text}{number}"] = configuration
    for tighter in range(index + 1, len(found)):
        if budget.fits(found[tighter][0]):
            finalists[f"{algorithm} {run.budgets[tighter].text}"] = found[tighter][0]
    for name, configuration in budget.uniform(run.knobs):
        finalists[f"uniform {name}"] = configuration
    return finalists


def _confirmed_best(
    run: Run,
    confirmed: Confirmation,
    budget: Budget,
    finalists: dict[str, np.ndarray],
    moves: list[Move],
) -> dict:
    """The winner among the finalists on the images to confirm on, as its file has it."""
    accuracies = {name: confirmed(configuration) for name, configuration in finalists.items()}
    winner = _winner(run, budget, finalists, accuracies)
    configuration = finalists[winner]
    result = {
        "layers": run.blueprint.space.to_json(configuration),
        **run.costs_of(configuration),
        "budget": budget.text,
        **budget.as_dict(),
        "source": winner,
        "checkpoint": confirmed.origin,
        "confirmed": {name: figures(accuracy) for name, accuracy in accuracies.items()},
        "trace": [
            move.as_dict() | {"layer": run.blueprint.space.names[move.layer]} for move in moves
        ],
    }
    run.log.info(
        f"search: {budget.text}: {winner}, {budget.describe(configuration)}, "
        f"confirmed top-1 {accuracies[winner].top1_percent:.2f} %"
    )
    return result


def write_frontier(run: Run, confirmed: Confirmation, visits: list[Visit]) -> list[dict]:
    """Confirms points over the range of BitOPs that the search visited, and how it saw them.

    Writes `frontier.json`: costs, the error that the search saw, the confirmed accuracy; and the
    rank correlations of the two, see `rank_correlations`. On one batch the error of a configuration
    is a rough guess; the correlation tells how rough.

    Returns:
      the points, as the file has them.
    """
    points = frontier(visits, run.costs.bitops_g, run.config.search.frontier_points)
    rows = []
    for visit in points:
        accuracy = confirmed(visit.configuration)
        rows.append(
            {
                "layers": run.blueprint.space.to_json(visit.configuration),
                **run.costs_of(visit.configuration),
                "proxy": visit.error,
                "confirmed": figures(accuracy),
            }
        )
    guesses = [row["proxy"] for row in rows]
    truths = [-row["confirmed"]["top1"] for row in rows]
    over_all, given_cost = rank_correlations(guesses, truths, [row["bitops_g"] for row in rows])
    content = {"checkpoint": confirmed.origin, "rank_correlation": over_all}
    content |= {"rank_correlation_given_cost": given_cost, "points": rows}
    write_json(run.workdir / FRONTIER_FILE, content)
    if over_all is not None:
        apart = "" if given_cost is None else f", {given_cost:.2f} apart from their costs"
        run.log.info(
            f"search: rank correlation of the errors it saw with confirmed ones: "
            f"{over_all:.2f}{apart}, over {len(rows)} configurations"
        )
    return rows


def _winner(
    run: Run,
    budget: Budget,
    finalists: dict[str, np.ndarray],
    accuracies: dict[str, Accuracy],
) -> str:
    """The best finalist, unless the uniform one costs about as much and may well be as good.

    The best of several looks better than it is, most of all on few images. Who asks for a level of
    bits gets other than uniform ones only where they are better by more than chance would make
    them: by `search.confirm_margin` standard errors of the difference.
    """
    metric = settings.search_metric(run.config)
    best = min(accuracies, key=lambda name: _rank(accuracies[name], metric))
    for name in accuracies:
        if name.startswith("uniform ") and budget.load(finalists[name]) >= EQUAL_COST:
            margin = run.config.search.confirm_margin
            gain = accuracies[best].top1 - accuracies[name].top1
            if gain < margin * _deviation(accuracies[best], accuracies[name]):
                return name
    return best


def _deviation(*accuracies: Accuracy) -> float:
    """Standard deviation of the difference of two counts of images, taken as independent ones."""
    shares = [(accuracy.top1 / accuracy.images, accuracy.images) for accuracy in accuracies]
    return math.sqrt(sum(share * (1 - share) * images for share, images in shares))


def _rank(accuracy: Accuracy, metric: str) -> tuple[float, float]:
    """Sorts accuracies, the best first: by cross-entropy for that metric, else by the error."""
    errors = float(accuracy.images - accuracy.top1)
    loss = accuracy.loss if math.isfinite(accuracy.loss) else math.inf
    return (loss, errors) if metric == "cross_entropy" else (errors, loss)
