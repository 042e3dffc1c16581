"""Section "training": curves of losses, learning rates and held-out accuracies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rfquant_jax.report import timelines
from rfquant_jax.report.markup import Markup, join, tag
from rfquant_jax.report.numbers import fixed
from rfquant_jax.report.run_files import RunFiles, Unavailable

HELD_OUT = "held_out/"
_MEAN = f"{HELD_OUT}mean"
_STAGES = {"pretrain": "Full-precision training", "train": "Coupled training"}
_LOSS = {"pretrain": "Loss.", "train": "Loss of the largest configuration."}
_RATES = {"rate/learning": "weights (SGD)", "rate/step_size": "step sizes (Adam)"}


def training(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: `metrics.jsonl` is missing or has no curves.
    """
    parts = []
    for stage, title in _STAGES.items():
        if figures := list(_stage(run.lines(stage), stage)):
            parts += [tag("h3", title), tag("div", *figures, class_="three")]
    if not parts:
        raise Unavailable("metrics.jsonl has no lines of training.")
    return join(parts)


def _stage(lines: Sequence[Mapping], stage: str) -> Iterator[Markup]:
    if found := series(lines, {"loss": "loss"}):
        yield _curves(stage, "loss", found, _LOSS[stage])
    if found := series(lines, _scores(lines)):
        last = ", ".join(f"{name} {fixed(points[-1][1], 2)} %" for name, points in found.items())
        caption = f"Held-out top-1 of the averaged weights (EMA); at the end: {last}."
        yield _curves(stage, "held-out top-1 (%)", found, caption, marks=True)
    rates = series(lines, _RATES)
    if found := {name: points for name, points in rates.items() if any(v for _, v in points)}:
        yield _curves(stage, "learning rate", found, "Learning rates.")


def _curves(stage: str, what: str, found: Mapping, caption: str, *, marks: bool = False) -> Markup:
    return timelines.curves(
        f"{stage}-{re.sub('[^a-z]+', '-', what).strip('-')}",
        found,
        ylabel=what,
        alt=f"{_STAGES[stage]}: {what} over steps",
        caption=caption,
        marks=marks,
    )


def _scores(lines: Iterable[Mapping]) -> dict[str, str]:
    """{key in `metrics.jsonl`: name} of the held-out accuracy; with several levels, of their mean.

    The section "interference" shows the levels themselves.
    """
    found = {key for line in lines for key in line if key.startswith(HELD_OUT)} - {_MEAN}
    if len(found) > 1:
        return {_MEAN: "mean of the levels"}
    return {key: key.removeprefix(HELD_OUT).replace("_", " ") for key in found}


def series(lines: Iterable[Mapping], names: Mapping[str, str]) -> dict[str, list]:
    """{name: [(step, value), ...]} of all finite values; names without values are left out."""
    found: dict[str, list] = {name: [] for name in names.values()}
    for line in lines:
        for key, name in names.items():
            value = line.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                found[name].append((float(line["step"]), float(value)))
    return {name: points for name, points in found.items() if points}
