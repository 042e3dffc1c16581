"""Sensitivities and the pictures that the task `search` leaves in the workdir."""

from __future__ import annotations

from rfquant_jax.config import search_bits
from rfquant_jax.data.sources import Source
from rfquant_jax.quant.space import COLUMN_NAMES
from rfquant_jax.report import plots
from rfquant_jax.search.greedy import Evaluate
from rfquant_jax.search.sensitivity import measure
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.measure import full_precision
from rfquant_jax.tasks.propose import interruptible
from rfquant_jax.tasks.workdir import SENSITIVITY_FILE, read_json, write_json


def write_sensitivity(run: Run, evaluate: Evaluate, checkpoint: str) -> None:
    """Measures every layer's bit-widths one at a time, and writes and draws them.

    Every other layer runs at the bits that the search starts from. What an earlier start of the
    same search measured stays.

    Args:
      evaluate: cross-entropies of configurations.
    """
    space, start = run.blueprint.space, search_bits.start(run.config)
    path = run.workdir / SENSITIVITY_FILE
    known = read_json(path) if path.exists() else None
    if isinstance(known, dict) and known.get("checkpoint") == checkpoint:
        return
    measured = measure(
        interruptible(run, evaluate),
        run.knobs,
        run.knobs.uniform(start, start),
        run.config.search.sensitivity_batches,
    )
    growth: dict[str, dict] = {what: {} for what in COLUMN_NAMES}
    for knob, changes in zip(run.knobs.knobs, measured.growth, strict=True):
        for layer in knob.layers:
            growth[COLUMN_NAMES[knob.column]][space.names[layer]] = changes
    content = {"checkpoint": checkpoint, "base": space.to_json(measured.base)}
    content |= {"cross_entropy": measured.error, "growth": growth}
    plots.sensitivity(path.with_suffix(".png"), growth, space.names, f"{start} bits")
    # Last, because it says that both are there.
    write_json(path, content)


def draw(run: Run, results: list[dict], points: list[dict], images: Source) -> None:
    """Draws the winners' bit-widths, and accuracies over costs.

    Args:
      results: of the budgets, see `search.search`.
      points: see `search.write_frontier`.
      images: those that accuracies were confirmed on.
    """
    space = run.blueprint.space
    winners = {r["budget"]: space.from_json(r) for r in results}
    plots.bit_widths(run.workdir / "bits.png", winners, space.names)
    searched = [(r["bitops_g"], r["confirmed"][r["source"]]["top1"]) for r in results]
    series = {"uniform": _uniform(run, results), "searched": searched}
    visited = [(p["bitops_g"], p["confirmed"]["top1"]) for p in points]
    series = {name: rows for name, rows in (series | {"visited": visited}).items() if rows}
    accuracy = full_precision(run, images)
    plots.frontier(run.workdir / "frontier.png", series, accuracy and accuracy.top1_percent)


def _uniform(run: Run, results: list[dict]) -> list[tuple[float, float]]:
    """Costs and confirmed accuracies of the uniform finalists."""
    found = []
    for budget, result in zip(run.budgets, results, strict=True):
        for name, configuration in budget.uniform(run.knobs):
            accuracy = result["confirmed"][f"uniform {name}"]["top1"]
            found.append((run.costs.bitops_g(configuration), accuracy))
    return list(dict.fromkeys(found))
