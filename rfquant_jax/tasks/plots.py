"""The plots of the task `search`."""

from __future__ import annotations

from rfquant_jax.data.sources import Source
from rfquant_jax.runtime.extras import missing
from rfquant_jax.tasks.measure import full_precision
from rfquant_jax.tasks.run import Run


def draw(run: Run, results: list[dict], curve: dict | None, images: Source) -> None:
    """Draws the winners' bit-widths, and accuracies over costs, if matplotlib is installed.

    Args:
      results: results of the budgets, see `search.search`.
      curve: see `curve.write_curve`; None without a profile.
      images: confirmation images.
    """
    if lack := missing("matplotlib"):
        run.log.info(f"no plots: {lack}")
        return
    from rfquant_jax.report import plots

    space = run.plan.space
    winners = {r["budget"]: space.from_json(r) for r in results}
    plots.bit_widths(run.workdir / "bits.png", winners, space.names)
    cost = "bitops_g" if curve is None else curve["cost"]
    uniform = _uniform(run, results) if curve is None else curve["uniform"]
    searched = [r | {"confirmed": r["confirmed"][r["source"]]} for r in results]
    series = {
        "uniform": _points(uniform, cost),
        "searched": _points(searched, cost),
        "curve": [] if curve is None else _points(curve["points"], cost),
    }
    accuracy = full_precision(run, images)
    plots.frontier(
        run.workdir / "frontier.png",
        {name: rows for name, rows in series.items() if rows},
        accuracy and accuracy.top1_percent,
        cost,
    )


def _points(rows: list[dict], cost: str) -> list[tuple[float, float, float, float]]:
    confirmed = [(row[cost], row["confirmed"]) for row in rows if row["confirmed"]]
    return [(at, figures["top1"], *figures["top1_interval"]) for at, figures in confirmed]


def _uniform(run: Run, results: list[dict]) -> list[dict]:
    """The distinct uniform finalists."""
    found = {}
    for budget, result in zip(run.budgets, results, strict=True):
        for name, configuration in budget.uniform(run.search_space):
            confirmed = {"confirmed": result["confirmed"][f"uniform {name}"]}
            found[name] = run.costs_of(configuration) | confirmed
    return list(found.values())
