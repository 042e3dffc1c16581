"""The task `search`: one configuration for each budget, confirmed on held-out images."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from rfquant_jax import settings
from rfquant_jax.checkpoint import TRAIN
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.data.sources import Part, split
from rfquant_jax.errors import ConfigError
from rfquant_jax.evaluate import Accuracy
from rfquant_jax.run import Run
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.greedy import GreedySearch, Move
from rfquant_jax.search.trace import Trace
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.workdir import SEARCH_FOLDER, TRACE_FILE, read_json, write_json


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
    return [read_json(result_file(run, budget)) for budget in run.budgets]


def results(run: Run, checkpoint: str) -> list[dict] | None:
    """What was found for every budget, the loosest first; None unless all is of this network.

    A network that was trained on after the search makes its results worthless.

    Args:
      checkpoint: where the network is from, see `networks.origin`.

    Raises:
      UserError: a file cannot be read.
    """
    files = [result_file(run, budget) for budget in run.budgets]
    if not all(file.exists() for file in files):
        return None
    found = [read_json(file) for file in files]
    valid = all(isinstance(r, dict) and r.get("checkpoint") == checkpoint for r in found)
    return found if valid else None


def _search(run: Run) -> None:
    trained = networks.coupled(run)
    trace = Trace(run.workdir / SEARCH_FOLDER / TRACE_FILE, checkpoint=trained.origin)
    found = _descend(run, trained, trace)
    measure = Measure(run, trained.pure)
    for index, budget in enumerate(run.budgets):
        run.stop.check()
        moves = [move for move in trace.moves if move.budget == index]
        _confirm(run, trained, measure, budget, _finalists(run, found, index), moves)


def search_parts(run: Run) -> tuple[Part, Part]:
    """The held-out images in two parts: to propose configurations on, and to confirm them on.

    A configuration that was picked because it did well on some images looks better on them than
    it is; only the others can tell whether it beats the uniform one.
    """
    data = run.config.data
    return split(
        run.data.held_out,
        run.config.search.confirm_fraction,
        data.split_seed + 1,
        field="search.confirm_fraction",
    )


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
    return run.pipeline.training(proposal, size, seed=seed, augment=False)


def result_file(run: Run, budget: Budget) -> Path:
    """Where the configuration found for a budget is written."""
    name = re.sub(r"[^\w.]+", "_", budget.text.replace("*", "x"))
    return run.workdir / SEARCH_FOLDER / f"{name}.json"


def candidate_evaluator(run: Run, trained: networks.Trained, metric: str) -> CandidateEvaluator:
    """Evaluates candidates on the images to propose on."""
    return CandidateEvaluator(
        trained.pure, trained.params, run.mesh, run.preprocess, search_batches(run), metric
    )


def _descend(run: Run, trained: networks.Trained, trace: Trace) -> list[np.ndarray]:
    """The greedy search's configuration for each budget; goes on from the trace."""
    evaluate = candidate_evaluator(run, trained, run.config.search.metric)
    recorded = list(trace.moves)
    if recorded:
        run.log.info(f"search: goes on after {len(recorded)} recorded iterations")
    run.log.rewind("search", len(recorded))
    space = run.blueprint.space
    with run.log.progress("search", None, len(recorded)) as progress:

        def interruptible(configurations: np.ndarray, iteration: int) -> np.ndarray:
            run.stop.check()
            return evaluate(configurations, iteration)

        def on_move(move: Move) -> None:
            trace.add(move)
            done = move.iteration + 1
            values = {"error": move.error, "score": move.score, "load": move.load}
            run.log.metrics("search", done, values)
            progress.advance()
            if done % run.config.train.log_every == 0:
                share = _share_done(start, descent.configuration, run.budgets[-1])
                text = run.budgets[move.budget].text
                progress.report(f"{text}: {move.phase}, {move.load:.3f} of the budget", share)

        descent = GreedySearch(
            space,
            settings.greedy_settings(run.config, len(space)),
            run.budgets,
            interruptible,
            on_move=on_move,
            recorded=recorded,
        )
        start = descent.configuration
        return descent.run()


def _share_done(start: np.ndarray, now: np.ndarray, tightest: Budget) -> float:
    """How much of the way from the start to the tightest budget lies behind, on a log scale."""
    whole, left = (math.log(max(tightest.load(c), 1.0)) for c in (start, now))
    return 1 - left / whole if whole > 0 else 0.0


def _finalists(run: Run, found: list[np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Configurations within a budget that compete for it, by where they come from.

    The uniform one with the most bits; the one the search found; and what it found for tighter
    budgets, which is within this one, too.
    """
    budget, space = run.budgets[index], run.blueprint.space.at_least(run.config.search.min_bits)
    finalists = {
        f"greedy {run.budgets[i].text}": found[i]
        for i in range(index, len(found))
        if budget.fits(found[i])
    }
    for name, configuration in budget.uniform(space):
        finalists[f"uniform {name}"] = configuration
    return finalists


def confirmed(
    run: Run, trained: networks.Trained, measure: Measure, configuration: np.ndarray
) -> Accuracy:
    """Accuracy on the images to confirm on, recalibrated."""
    _, images = search_parts(run)
    statistics = measure.recalibrated(trained.params, configuration)
    return measure.on(images, trained.params, statistics, configuration)


def _confirm(
    run: Run,
    trained: networks.Trained,
    measure: Measure,
    budget: Budget,
    finalists: dict[str, np.ndarray],
    moves: list[Move],
) -> None:
    """Chooses among the finalists on the images to confirm on and writes the winner."""
    accuracies = {
        name: confirmed(run, trained, measure, configuration)
        for name, configuration in finalists.items()
    }
    winner = min(accuracies, key=lambda name: _rank(accuracies[name], run.config.search.metric))
    configuration = finalists[winner]
    write_json(
        result_file(run, budget),
        {
            "layers": run.blueprint.space.to_json(configuration),
            "bitops_g": run.costs.bitops_g(configuration),
            "size_mb": run.costs.size_mb(configuration),
            "budget": budget.text,
            "budget_g": budget.bitops_g,
            "budget_mb": budget.size_mb,
            "source": winner,
            "checkpoint": trained.origin,
            "confirmed": {
                name: {"top1": a.top1_percent, "cross_entropy": a.mean_loss, "images": a.images}
                for name, a in accuracies.items()
            },
            "trace": [
                move.as_dict() | {"layer": run.blueprint.space.names[move.layer]} for move in moves
            ],
        },
    )
    run.log.info(
        f"search: {budget.text}: {winner}, {budget.describe(configuration)}, "
        f"confirmed top-1 {accuracies[winner].top1_percent:.2f} %"
    )


def _rank(accuracy: Accuracy, metric: str) -> tuple[float, float]:
    """Sorts accuracies, the best first: by the search's metric, ties by the other one."""
    errors = accuracy.images - accuracy.top1
    return (errors, accuracy.loss) if metric == "error" else (accuracy.loss, errors)
