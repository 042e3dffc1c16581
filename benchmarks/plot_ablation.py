"""A plot of the ablation's summary: accuracy against bits for each variant.

    python -m benchmarks.plot_ablation --summary=runs/ablation/summary.json --out=ablation.png

Left: mean test top-1 of uniform configurations. Right: the paired difference from the first
variant, with its 95 % interval (Student's t over the seeds).
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.ablation import UNIFORM
from rfquant_jax.runtime.json_files import read_json

_SUMMARY = flags.DEFINE_string("summary", "runs/ablation/summary.json", "what the ablation wrote")
_OUT = flags.DEFINE_string("out", "ablation.png", "the image to write")


# Eleven variants need more colours than the ten of Matplotlib's default.
COLORS = [
    *("#333333", "#1d5fae", "#d1495b", "#c77f12", "#1f8a5f", "#7a55b0"),
    *("#6a737d", "#3fb0c9", "#e377c2", "#8c564b", "#9fb31a"),
]


def draw(rows: list[dict], path: Path) -> None:
    """Draws the rows of a summary, see `ablation.summarize`."""
    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    differences = [row for row in rows if " - " in row["variant"]]
    places = range(len(UNIFORM))
    for number, row in enumerate(rows[: len(rows) - len(differences)]):
        means = [row[f"{bits} bits"][0] for bits in UNIFORM]
        color = COLORS[number % len(COLORS)]
        left.plot(places, means, marker="o", markersize=4, label=row["variant"], color=color)
    for number, row in enumerate(differences):
        # Side by side, so that no interval hides another.
        shift = 0.08 * (number - (len(differences) - 1) / 2)
        means, halves = zip(*(row[f"{bits} bits"] for bits in UNIFORM), strict=True)
        halves = [half or 0.0 for half in halves]  # one seed has no interval
        color = COLORS[(number + 1) % len(COLORS)]
        x = [p + shift for p in places]
        right.errorbar(x, means, halves, fmt="o", markersize=4, capsize=2, color=color)
    right.axhline(0, color="gray", linewidth=0.8)
    for axes in (left, right):
        axes.set_xticks(places, [f"w{bits}a{bits}" for bits in UNIFORM])
    left.set_ylabel("top-1 (%)")
    right.set_ylabel("top-1, difference from the first (points)")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    FigureCanvasAgg(figure).print_png(path)


def main(_) -> None:
    draw(read_json(Path(_SUMMARY.value))["rows"], Path(_OUT.value))


if __name__ == "__main__":
    app.run(main)
