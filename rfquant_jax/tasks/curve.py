"""Network-wide results of a search: accuracy-cost curve, sensitivities, surrogate quality."""

from __future__ import annotations

import numpy as np

from rfquant_jax.quant.space import COLUMN_NAMES
from rfquant_jax.runtime.extras import missing
from rfquant_jax.search.budget import CostKind
from rfquant_jax.search.frontier import curve, spread
from rfquant_jax.search.profile_search import ProfileSearch
from rfquant_jax.tasks.confirm import Confirmation, figures
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import (
    FRONTIER_FILE,
    SENSITIVITY_FILE,
    SURROGATE_FILE,
    write_json,
)


def write_curve(run: Run, search: ProfileSearch, confirmed: Confirmation) -> dict:
    """Solves budgets over the whole range of costs, confirms some, and writes `frontier.json`.

    Returns:
      the content of the file.
    """
    kind = _cost_kind(run)
    points = curve(search.pooled, run.search_space, kind)
    chosen = spread(len(points), run.config.search.frontier_points)
    rows = []
    for number, point in enumerate(points):
        accuracy = confirmed(point.configuration).accuracy if number in chosen else None
        measured = search.divergences([point.configuration])[0]
        rows.append(
            {
                "budget": point.budget.text,
                "layers": run.plan.space.to_json(point.configuration),
                **run.costs_of(point.configuration),
                "predicted_divergence": point.predicted,
                "divergence": None if np.isnan(measured) else float(measured),
                "confirmed": accuracy and figures(accuracy),
            }
        )
    content = {"checkpoint": confirmed.origin, "cost": _cost_name(kind), "points": rows}
    content["uniform"] = [
        {"name": f"w{w}a{a}"}
        | run.costs_of(configuration)
        | {"confirmed": figures(confirmed(configuration).accuracy)}
        for w, a in run.search_space.levels
        for configuration in [run.search_space.uniform(w, a)]
    ]
    write_json(run.workdir / FRONTIER_FILE, content)
    return content


def _cost_kind(run: Run) -> CostKind:
    """The cost of the curve: BitOPs, unless no budget limits them."""
    kinds = [limit.kind for budget in run.budgets for limit in budget.limits]
    return next((kind for kind in kinds if kind.unit == "G"), kinds[0])


def _cost_name(kind: CostKind) -> str:
    return {"G": "bitops_g", "MB": "size_mb", "ms": "latency_ms"}[kind.unit]


def write_model(run: Run, search: ProfileSearch, checkpoint: str) -> None:
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
    write_json(run.workdir / SURROGATE_FILE, content)
    run.log.info(
        f"search: the surrogate explains {100 * found.r2:.0f} % of the variance of "
        f"log(divergence) of unseen configurations, rank correlation "
        f"{found.rank_correlation:.2f}"
    )
    _write_sensitivity(run, search, checkpoint)


def _write_sensitivity(run: Run, search: ProfileSearch, checkpoint: str) -> None:
    """Predicted growth of log(divergence) if a single layer loses bits."""
    space, search_space = run.plan.space, run.search_space
    middle = search_space.candidates[len(search_space.candidates) // 2]
    base = search_space.uniform(middle, middle)
    growth: dict[str, dict] = {what: {} for what in COLUMN_NAMES}
    found = search.pooled.sensitivity(base)
    for variable, changes in zip(search_space.variables, found, strict=True):
        for layer, column in variable.places:
            growth[COLUMN_NAMES[column]][space.names[layer]] = changes
    content = {"checkpoint": checkpoint, "base": space.to_json(base), "unit": "log divergence"}
    path = run.workdir / SENSITIVITY_FILE
    if missing("matplotlib") is None:
        from rfquant_jax.report import plots

        plots.sensitivity(path.with_suffix(".png"), growth, space.names)
    # Last, because it says that both are there.
    write_json(path, content | {"growth": growth})
