"""The plots of the task `search`."""

from __future__ import annotations

from pathlib import Path

from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.search.finalists import UNIFORM
from rfquant_jax.tasks.problem import SearchProblem


def draw(
    workdir: Path,
    problem: SearchProblem,
    results: list[dict],
    curve: dict | None,
    full_precision: Accuracy | None,
) -> None:
    """Draws the winners' bit-widths, and accuracies over costs; needs matplotlib.

    Args:
      results: results of the budgets, see `search.search`.
      curve: see `curve.write_curve`; None without a profile.
      full_precision: of the plain network on the confirmation images, if there is one.
    """
    from rfquant_jax.report import plots

    space = problem.plan.space
    winners = {r["budget"]: space.from_json(r) for r in results}
    plots.bit_widths(workdir / "bits.png", winners, space.names)
    cost = "bitops_g" if curve is None else curve["cost"]
    uniform = _uniform(problem, results) if curve is None else curve["uniform"]
    searched = [r | {"confirmed": r["confirmed"][r["source"]]} for r in results]
    series = {
        "uniform": _points(uniform, cost),
        "searched": _points(searched, cost),
        "curve": [] if curve is None else _points(curve["points"], cost),
    }
    plots.frontier(
        workdir / "frontier.png",
        {name: rows for name, rows in series.items() if rows},
        full_precision and full_precision.top1_percent,
        cost,
    )


def _points(rows: list[dict], cost: str) -> list[tuple[float, float, float, float]]:
    confirmed = [(row[cost], row["confirmed"]) for row in rows if row["confirmed"]]
    return [(at, figures["top1"], *figures["top1_interval"]) for at, figures in confirmed]


def _uniform(problem: SearchProblem, results: list[dict]) -> list[dict]:
    """The distinct uniform finalists."""
    found = {}
    for budget, result in zip(problem.budgets, results, strict=True):
        for name, configuration in budget.uniform(problem.search_space):
            confirmed = {"confirmed": result["confirmed"][f"{UNIFORM}{name}"]}
            found[name] = problem.costs_of(configuration) | confirmed
    return list(found.values())
