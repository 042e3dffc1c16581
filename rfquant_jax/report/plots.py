"""Plots of search results, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from rfquant_jax.quant.space import COLUMN_NAMES
from rfquant_jax.runtime.files import replacing

_DPI = 150
_PER_LAYER = 0.28  # inches


def bit_widths(path: Path, winners: Mapping[str, np.ndarray], layers: Sequence[str]) -> None:
    """Plots the weight and activation bit-widths of each winner by layer.

    Args:
      winners: {budget: configuration int32[L, 2]}, L >= 1.
      layers: names, in forward order.
    """
    rows = [
        (f"{name}  {what}", configuration[:, column])
        for name, configuration in winners.items()
        for column, what in enumerate(COLUMN_NAMES)
    ]
    values = np.stack([bits for _, bits in rows])
    figure, axes = _wide(len(layers), 1.6 + 0.3 * len(rows))
    levels = np.arange(values.min(), values.max() + 2) - 0.5
    shown = axes.imshow(
        values, aspect="auto", cmap="viridis", norm=BoundaryNorm(levels, 256), origin="upper"
    )
    for (y, x), bits in np.ndenumerate(values):
        bright = bits > (values.min() + values.max()) / 2
        axes.text(x, y, bits, ha="center", va="center", fontsize=7, color="k" if bright else "w")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    _name_layers(axes, layers)
    axes.set_title("bits of each layer, by budget")
    figure.colorbar(shown, ax=axes, ticks=np.unique(values), label="bits", pad=0.01)
    _save(figure, path)


def sensitivity(
    path: Path,
    growth: Mapping[str, Mapping[str, Mapping[int, float]]],
    layers: Sequence[str],
) -> None:
    """Plots the growth of log(divergence) for each bit-width of each layer.

    Args:
      growth: {"weights" | "activations": {layer: {bits: growth}}}.
    """
    bits = sorted({b for of in growth.values() for row in of.values() for b in row}, reverse=True)
    rows = [
        (what, b) for what, of in growth.items() for b in bits if any(b in x for x in of.values())
    ]
    values = np.asarray(
        [[growth[what][layer].get(b, np.nan) for layer in layers] for what, b in rows]
    )
    figure, axes = _wide(len(layers), 1.6 + 0.3 * len(rows))
    limit = np.nanmax(np.abs(values)) or 1.0
    shown = axes.imshow(values, aspect="auto", cmap="coolwarm", vmin=-limit, vmax=limit)
    axes.set_yticks(range(len(rows)), [f"{what}  {b} bits" for what, b in rows], fontsize=8)
    _name_layers(axes, layers)
    axes.set_title("growth of log(divergence) from the largest bit-width, by the surrogate")
    figure.colorbar(shown, ax=axes, label="growth", pad=0.01)
    _save(figure, path)


AXES = {"bitops_g": "GBitOPs", "size_mb": "size (MB)", "latency_ms": "latency (ms)"}


def frontier(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    full_precision: float | None,
    cost: str = "bitops_g",
) -> None:
    """Plots accuracy over a cost.

    Args:
      series: {name: points (cost, top-1, lower and upper end of its interval)}, in percent.
      full_precision: top-1 of the full-precision network, drawn as a line.
      cost: a key of `AXES`.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    markers = iter("s^o*")
    for name, points in series.items():
        costs, accuracies, low, high = np.asarray(sorted(points), float).T
        reach = np.maximum([accuracies - low, high - accuracies], 0)
        style = {"searched": "none", "curve": ":"}.get(name, "-")
        axes.errorbar(
            costs,
            accuracies,
            reach,
            linestyle=style,
            marker=next(markers),
            label=name,
            alpha=0.8,
            elinewidth=0.8,
            capsize=2,
        )
    if full_precision is not None:
        axes.axhline(full_precision, color="0.4", linestyle="--", label="full precision")
    axes.set_xscale("log")
    axes.set_xlabel(AXES[cost])
    axes.set_ylabel("top-1 on the images to confirm on (%)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    _save(figure, path)


def _wide(layers: int, height: float):
    figure = Figure(figsize=(max(6.0, 3.0 + _PER_LAYER * layers), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _name_layers(axes, layers: Sequence[str]) -> None:
    axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")
