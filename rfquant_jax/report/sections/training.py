"""Training curves: losses, rates, held-out accuracies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rfquant_jax.report import timelines
from rfquant_jax.report.markup import Markup, join, tag
from rfquant_jax.report.numbers import fixed
from rfquant_jax.report.run_files import RunFiles, Unavailable

_HELD_OUT = "held_out/"
_STAGES = {"pretrain": "Full-precision training", "train": "Coupled training"}
_LOSSES = {"loss": "largest", "random/loss": "random, mean"}
_RATES = {"rate/learning": "weights (SGD)", "rate/step_size": "step sizes (Adam)"}


def training(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: `metrics.jsonl` is missing or holds no curve.
    """
    parts = []
    for stage, title in _STAGES.items():
        if figures := list(_stage(run.lines(stage), stage)):
            parts += [tag("h3", title), tag("div", *figures, class_="three")]
    if not parts:
        raise Unavailable("metrics.jsonl holds no line of a training.")
    return join(parts)


def _stage(lines: Sequence[Mapping], stage: str) -> Iterator[Markup]:
    losses = _LOSSES if stage == "train" else {"loss": "loss"}
    if found := _series(lines, losses):
        yield _curves(stage, "loss", found, "Loss" + _passes(found))
    keys = dict.fromkeys(key for line in lines for key in line if key.startswith(_HELD_OUT))
    names = {key: key.removeprefix(_HELD_OUT).replace("_", " ") for key in keys}
    names.pop(f"{_HELD_OUT}mean", None)
    if found := _series(lines, names):
        last = ", ".join(f"{name} {fixed(points[-1][1], 2)} %" for name, points in found.items())
        caption = f"Held-out top-1 of the averaged weights (EMA); at the end: {last}."
        yield _curves(stage, "held-out top-1 (%)", found, caption, marks=True)
    rates = _series(lines, _RATES)
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


def _passes(found: Mapping) -> str:
    if len(found) < 2:
        return "."
    return ", of the pass of the largest configuration and of the random passes of a step (mean)."


def _series(lines: Iterable[Mapping], names: Mapping[str, str]) -> dict[str, list]:
    """Finite values over steps by name; names without any are left out."""
    found: dict[str, list] = {name: [] for name in names.values()}
    for line in lines:
        for key, name in names.items():
            value = line.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                found[name].append((float(line["step"]), float(value)))
    return {name: points for name, points in found.items() if points}
