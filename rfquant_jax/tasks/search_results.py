"""The result files of the task `search`, one for each budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.json_files import read_json
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.finalists import UNIFORM
from rfquant_jax.search.selection import Confirmed, Gain
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.workdir import SEARCH_FOLDER


def result_file(workdir: Path, budget: Budget) -> Path:
    """The path of the result file of a budget."""
    name = re.sub(r"[^\w.]+", "_", budget.text.replace("*", "x").replace("%", "pct"))
    return workdir / SEARCH_FOLDER / f"{name}.json"


def results(
    workdir: Path, space: Space, budgets: Sequence[Budget], checkpoint: str
) -> list[dict] | None:
    """The existing results of all budgets, in their order; None unless all are valid.

    Results become invalid if the network was trained further, or if changed latencies move a
    configuration out of its budget.

    Args:
      checkpoint: origin of the network, see `networks.origin`.

    Raises:
      UserError: a file cannot be read.
    """
    files = [result_file(workdir, budget) for budget in budgets]
    if not all(file.exists() for file in files):
        return None
    found = [read_json(file) for file in files]
    if not all(isinstance(r, dict) and r.get("checkpoint") == checkpoint for r in found):
        return None
    pairs = zip(budgets, files, found, strict=True)
    fit = all(b.fits(space.from_json(r, source=str(file))) for b, file, r in pairs)
    return found if fit else None


def content(problem: SearchProblem, budget: Budget, found: Confirmed, checkpoint: str) -> dict:
    """The content of a budget's file, without the entries of its algorithm."""
    configuration = found.winner.configuration
    return {
        "layers": problem.plan.space.to_json(configuration),
        **problem.costs_of(configuration),
        "budget": budget.text,
        **budget.as_dict(),
        "source": found.winner.name,
        "checkpoint": checkpoint,
        "confirmed": {name: figures(each.accuracy) for name, each in found.outcomes.items()},
        "gain": _shown(found.over_uniform),
        "gain_pair": _shown(found.over_pair),
        "distinguishable": found.over_uniform is not None and found.over_uniform.distinguishable,
    }


def _shown(found: Gain | None) -> dict | None:
    if found is None:
        return None
    return found.as_dict() | {"over": found.over.removeprefix(UNIFORM)}


def verdict(budget: Budget, found: Confirmed) -> str:
    """The log message about a winner."""
    winner, over_uniform = found.winner, found.over_uniform
    text = f"{winner.name}, {budget.describe(winner.configuration)}"
    if over_uniform is None or over_uniform.over == winner.name:
        return text
    loss, over = over_uniform.loss, over_uniform.over.removeprefix(UNIFORM)
    half = (loss.high - loss.low) / 2
    text += f", cross-entropy {loss.mean:+.4f} ± {half:.4f} against {over}"
    return text if over_uniform.distinguishable else f"{text}: cannot be told apart from it"


def figures(accuracy: Accuracy) -> dict:
    """An accuracy with its 95 % interval, as in results."""
    return {
        "top1": accuracy.top1_percent,
        "top1_interval": list(accuracy.top1_interval),
        "cross_entropy": accuracy.mean_loss,
        "images": accuracy.images,
    }
