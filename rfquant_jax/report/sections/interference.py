"""Section "interference": how training at one bit-width affects the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rfquant_jax.report import timelines
from rfquant_jax.report.heatmap import Cell, Group, heat_map
from rfquant_jax.report.markup import Markup, join, paragraph, tag
from rfquant_jax.report.numbers import fixed
from rfquant_jax.report.run_files import RunFiles, Unavailable
from rfquant_jax.report.sections.training import HELD_OUT, series

_LOSSES = {"loss": "largest", "random/loss": "random", "smallest/loss": "smallest"}
_LEVEL = re.compile(re.escape(HELD_OUT) + r"w\d+a\d+")
MOST_MOMENTS = 8  # columns of the heat map over time


def interference(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: `metrics.jsonl` is missing or has no lines of coupled training.
    """
    lines = run.lines("train")
    records = [line for line in lines if line.get("event") == "interference"]
    boundary = run.optional("config.json").get("scheduler", {}).get("boundary")
    figures = [*_losses(lines), *_levels(lines), *_oscillating(records, boundary), *_frozen(lines)]
    if not figures:
        raise Unavailable("metrics.jsonl has no lines of coupled training.")
    parts = [tag("div", *figures, class_="pair")]
    if records:
        parts += [tag("h3", "Bit-widths sampled"), *_sampled(records)]
        parts += [tag("h3", "Weights near a rounding boundary, by layer"), *_near(records)]
    return join(parts)


def frozen_layers(events: Iterable[Mapping], last: int) -> list[tuple[int, int]]:
    """Corners (step, count) of the step curve of the number of layers with a frozen bit-width.

    Args:
      events: events of the scheduler in `metrics.jsonl`, in order.
      last: step at which the curve ends.
    """
    frozen: set[tuple[str, int]] = set()
    corners = [(0, 0)]
    for event in events:
        for change in event["changes"]:
            key = change["layer"], change["bits"]
            (frozen.add if change["change"] == "frozen" else frozen.discard)(key)
        corners += [(event["step"], corners[-1][1]), (event["step"], len({k for k, _ in frozen}))]
    return [*corners, (max(last, corners[-1][0]), corners[-1][1])]


def _losses(lines: Sequence[Mapping]) -> Iterator[Markup]:
    if found := series(lines, _LOSSES):
        kinds = {
            "largest": "the largest configuration",
            "random": "random configurations (mean)",
            "smallest": "the smallest configuration",
        }
        caption = f"Loss of each kind of pass: {', '.join(kinds[name] for name in found)}."
        yield _curves("loss", found, caption)


def _levels(lines: Sequence[Mapping]) -> Iterator[Markup]:
    keys = dict.fromkeys(key for line in lines for key in line if _LEVEL.fullmatch(key))
    if found := series(lines, {key: key.removeprefix(HELD_OUT) for key in keys}):
        last = ", ".join(f"{name} {fixed(points[-1][1], 2)} %" for name, points in found.items())
        caption = f"Held-out top-1 of uniform configurations (EMA); at the end: {last}."
        yield _curves("held-out top-1 (%)", found, caption, marks=True)


def _oscillating(records: Sequence[Mapping], boundary: float | None) -> Iterator[Markup]:
    found: dict[str, list] = {}
    for record in records:
        for place, bits in enumerate(record["bits"]):
            shares = [row[place] for row in record["near_boundary"] if row[place] is not None]
            if shares:
                point = float(record["step"]), 100.0 * sum(shares) / len(shares)
                found.setdefault(f"{bits} bits", []).append(point)
    if found:
        caption = (
            "Weights near a rounding boundary, which may oscillate: mean share over the layers, by "
            "weight bit-width."
        )
        if boundary is not None:
            caption += f" Uniformly distributed weights would have {fixed(100 * boundary, 0)} %."
        yield _curves("weights near a boundary (%)", found, caption, marks=True)


def _frozen(lines: Sequence[Mapping]) -> Iterator[Markup]:
    events = [line for line in lines if line.get("event") == "scheduler"]
    if events:
        corners = frozen_layers(events, max(line["step"] for line in lines))
        most = max(count for _, count in corners)
        caption = f"Layers with a frozen bit-width: at most {most}, at the end "
        yield _curves("frozen layers", {"frozen layers": corners}, f"{caption}{corners[-1][1]}.")


def _curves(what: str, found: Mapping, caption: str, *, marks: bool = False) -> Markup:
    return timelines.curves(
        f"interference-{re.sub('[^a-z]+', '-', what).strip('-')}",
        found,
        ylabel=what,
        alt=f"Interference: {what} over steps",
        caption=caption,
        marks=marks,
    )


def _sampled(records: Sequence[Mapping]) -> list[Markup]:
    passes = sum(record["passes"] for record in records)
    layers, bits = records[-1]["layers"], records[-1]["bits"]
    counts = {
        what: np.sum([record[what] for record in records], axis=0)
        for what in ("weights", "activations")
    }
    most = max(int(values.max(initial=0)) for values in counts.values()) or 1
    # A bit-width that is no candidate of a layer has no share; its cell stays empty.
    taken = [[share is not None for share in row] for row in records[-1]["near_boundary"]]
    allowed_of = {"weights": taken, "activations": records[-1].get("activations_allowed", taken)}

    def group(what: str, values: np.ndarray) -> Group:
        used = [i for i in range(len(bits)) if any(row[i] for row in allowed_of[what])]
        rows = zip(layers, values.tolist(), allowed_of[what], strict=True)
        cells = {
            layer: [
                _share(row[i] / max(passes, 1), row[i] / most) if allowed[i] else None for i in used
            ]
            for layer, row, allowed in rows
        }
        return Group(f"{what}: bits", [bits[i] for i in used], cells)

    groups = [group(what, values) for what, values in counts.items()]
    text = (
        f"Percentage of the {passes:,} passes in which a layer ran at a bit-width. Passes of the "
        "largest configuration are not counted."
    )
    return [paragraph(text), heat_map(layers, groups, label="Bit-widths sampled in each layer")]


def _near(records: Sequence[Mapping]) -> list[Markup]:
    places = np.linspace(0, len(records) - 1, min(MOST_MOMENTS, len(records)))
    moments = [records[round(place)] for place in places]
    layers = records[-1]["layers"]
    columns = [_of_smallest(record) for record in moments]
    values = [value for column in columns for value in column]
    least, most = min(values, default=0.0), max(values, default=0.0)
    span = most - least or 1.0  # colours span the range of the shares, because these differ little
    cells = {
        layer: [_share(c[i], (c[i] - least) / span, warm=True) for c in columns]
        for i, layer in enumerate(layers)
    }
    steps = [f"{record['step']:,}" for record in moments]
    text = (
        "Percentage of each layer's weights near a rounding boundary of its smallest bit-width "
        "that is not frozen. The stronger the colour, the larger the share."
    )
    heat = heat_map(layers, [Group("step", steps, cells)], label="Weights near a boundary")
    return [paragraph(text), heat]


def _of_smallest(record: Mapping) -> list[float]:
    """Each layer's share of weights near a boundary, at its smallest bit-width not frozen."""
    rows = zip(record["near_boundary"], record["smallest"], strict=True)
    return [row[record["bits"].index(bits)] for row, bits in rows]


def _share(value: float, heat: float, *, warm: bool = False) -> Cell:
    return Cell(fixed(100 * value, 0), heat, warm=warm)
