"""Section "classes": the accuracy of each searched configuration on each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rfquant_jax.report.heatmap import Cell, Group, heat_map
from rfquant_jax.report.markup import Markup, join, paragraph, tag
from rfquant_jax.report.numbers import MISSING, fixed, signed
from rfquant_jax.report.run_files import RunFiles, Unavailable
from rfquant_jax.report.sections.results import searched, uniform_of

MOST_CLASSES = 40  # with more classes, only those with the lowest accuracy


def classes(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: `results.json` is missing or has no accuracies per class.
    """
    content = run.json("results.json")
    winners = [row for row in searched(content) if row.get("top1_by_class")]
    if not winners:
        raise Unavailable("results.json holds no accuracies per class of searched configurations.")
    names = _names(content, len(winners[0]["top1_by_class"]))
    shown = _shown([row["top1_by_class"] for row in winners])
    rows = [names[i] for i in shown]
    groups = [_group(content, row, names, shown) for row in winners]
    text = (
        "Top-1 (%) of each class on the test images, and the difference in points from the best "
        "uniform configuration with equal bits within the budget. The stronger the colour, the "
        "more errors."
    )
    if len(shown) < len(names):
        text += f" Shown are the {len(shown)} of {len(names)} classes with the lowest mean."
    heat = heat_map(rows, groups, label="Accuracy per class", corner="class")
    return join([paragraph(text), heat])


def _names(content: Mapping, count: int) -> list[str]:
    """Unique names of the classes, because they are the keys of the rows."""
    names = content.get("class_names") or []
    if len(names) != count:
        return [f"class {i}" for i in range(count)]
    twice = len(set(names)) < len(names)
    return [f"{name} ({i})" if twice else str(name) for i, name in enumerate(names)]


def _shown(winners: Sequence[Sequence[float | None]]) -> list[int]:
    """The classes to show, in order: all, or those with the lowest mean."""
    columns = [[v for v in column if v is not None] for column in zip(*winners, strict=True)]
    means = [sum(c) / len(c) if c else float("inf") for c in columns]
    return sorted(sorted(range(len(means)), key=means.__getitem__)[:MOST_CLASSES])


def _group(content: Mapping, row: Mapping, names: Sequence[str], shown: Sequence[int]) -> Group:
    values, uniform = row["top1_by_class"], uniform_of(content, row) or {}
    base = uniform.get("top1_by_class") or [None] * len(values)
    cells = {names[i]: [_accuracy(values[i]), _change(values[i], base[i])] for i in shown}
    heading = tag("code", row.get("budget", row["name"]))
    return Group(heading, ("top-1", "difference"), cells)


def _accuracy(value: float | None) -> Cell:
    # The colour saturates at 25 % errors, because good networks differ near 100 %.
    return Cell(fixed(value, 1), 0.0 if value is None else (100 - value) / 25, warm=True)


def _change(value: float | None, base: float | None) -> Cell:
    if value is None or base is None:
        return Cell(MISSING)
    return Cell(signed(value - base, 1))
