"""Network-wide results of a search: accuracy-cost curve, sensitivities, surrogate quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rfquant_jax.quant.space import COLUMN_NAMES
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime.extras import missing
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.search.budget import CostKind
from rfquant_jax.search.confirm import Confirmation
from rfquant_jax.search.frontier import curve, spread
from rfquant_jax.search.profile_search import ProfileSearch
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.search_results import figures
from rfquant_jax.tasks.workdir import FRONTIER_FILE, SENSITIVITY_FILE, SURROGATE_FILE


def write_curve(
    workdir: Path,
    problem: SearchProblem,
    search: ProfileSearch,
    confirmed: Confirmation,
    checkpoint: str,
    count: int,
) -> dict:
    """Solves budgets over the whole range of costs, confirms some, and writes `frontier.json`.

    Args:
      checkpoint: origin of the network.
      count: number of points to confirm.

    Returns:
      the content of the file.
    """
    kind, space, search_space = _cost_kind(problem), problem.plan.space, problem.search_space
    points = curve(search.pooled, search_space, kind)
    chosen = spread(len(points), count)
    rows = []
    for number, point in enumerate(points):
        accuracy = confirmed(point.configuration).accuracy if number in chosen else None
        measured = search.divergences([point.configuration])[0]
        rows.append(
            {
                "budget": point.budget.text,
                "layers": space.to_json(point.configuration),
                **problem.costs_of(point.configuration),
                "predicted_divergence": point.predicted,
                "divergence": None if np.isnan(measured) else float(measured),
                "confirmed": accuracy and figures(accuracy),
            }
        )
    content = {"checkpoint": checkpoint, "cost": _cost_name(kind), "points": rows}
    content["uniform"] = [
        {"name": f"w{w}a{a}"}
        | problem.costs_of(configuration)
        | {"confirmed": figures(confirmed(configuration).accuracy)}
        for w, a in search_space.levels
        for configuration in [search_space.uniform(w, a)]
    ]
    write_json(workdir / FRONTIER_FILE, content)
    return content


def _cost_kind(problem: SearchProblem) -> CostKind:
    """The cost of the curve: BitOPs, unless no budget limits them."""
    kinds = [limit.kind for budget in problem.budgets for limit in budget.limits]
    return next((kind for kind in kinds if kind.unit == "G"), kinds[0])


def _cost_name(kind: CostKind) -> str:
    return {"G": "bitops_g", "MB": "size_mb", "ms": "latency_ms"}[kind.unit]


def write_model(
    workdir: Path, problem: SearchProblem, search: ProfileSearch, checkpoint: str, log: RunLog
) -> None:
    """Writes the quality of the surrogate and the terms of each layer."""
    found = search.pooled.quality
    pairs = np.stack([found.measured, found.predicted], axis=1)
    content = {
        "checkpoint": checkpoint,
        "r2": found.r2,
        "rank_correlation": found.rank_correlation,
        "strength": found.strength,
        "configurations": len(pairs),
        "held_out": pairs.round(4).tolist(),
    }
    write_json(workdir / SURROGATE_FILE, content)
    log.info(
        f"search: the surrogate explains {100 * found.r2:.0f} % of the variance of "
        f"log(divergence) of unseen configurations, rank correlation "
        f"{found.rank_correlation:.2f}"
    )
    _write_sensitivity(workdir / SENSITIVITY_FILE, problem, search, checkpoint)


def _write_sensitivity(
    path: Path, problem: SearchProblem, search: ProfileSearch, checkpoint: str
) -> None:
    """Predicted growth of log(divergence) if a single layer loses bits."""
    space, search_space = problem.plan.space, problem.search_space
    middle = search_space.candidates[len(search_space.candidates) // 2]
    base = search_space.uniform(middle, middle)
    growth: dict[str, dict] = {what: {} for what in COLUMN_NAMES}
    found = search.pooled.sensitivity(base)
    for variable, changes in zip(search_space.variables, found, strict=True):
        for layer, column in variable.places:
            growth[COLUMN_NAMES[column]][space.names[layer]] = changes
    content = {"checkpoint": checkpoint, "base": space.to_json(base), "unit": "log divergence"}
    if missing("matplotlib") is None:
        from rfquant_jax.report import plots

        plots.sensitivity(path.with_suffix(".png"), growth, space.names)
    # Last, because it says that both are there.
    write_json(path, content | {"growth": growth})
