"""Charts of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rfquant_jax.report.canvas import (
    INK,
    MUTED,
    SERIES,
    SURFACE,
    draw,
    label,
    legend_above,
    log_axis,
    plain_numbers,
)
from rfquant_jax.report.markup import Markup

# Labels and styles of the frontier's series.
CURVE, UNIFORM, ANSWERS = "searched", "uniform", "answers to the budgets"
_FRONTIER_STYLES = {
    CURVE: {"linestyle": "-", "marker": "o", "color": SERIES[0]},
    UNIFORM: {"linestyle": "--", "marker": "s", "color": MUTED},
    ANSWERS: {"linestyle": "none", "marker": "*", "color": SERIES[1], "markersize": 9},
}

Points = Sequence[tuple[float, float]]


def gains(rows: Sequence[tuple[str, float, tuple[float, float], bool]], caption: str) -> Markup:
    """Paired differences in top-1 with their intervals, one row per budget.

    Args:
      rows: budget, difference and 95 % interval in points, and whether the uniform configuration is
        a pair wXaY (else: equal bits).
    """
    names = list(dict.fromkeys(name for name, *_ in rows))

    def paint(axes):
        axes.axvline(0, color=INK, linewidth=1)
        for pair, (color, marker, shift) in enumerate(
            ((SERIES[0], "o", -0.14), (MUTED, "s", 0.14))
        ):
            chosen = [row for row in rows if row[3] == bool(pair)]
            y = [names.index(name) + shift for name, *_ in chosen]
            values = [value for _, value, _, _ in chosen]
            ends = np.reshape([bounds for _, _, bounds, _ in chosen], (-1, 2)).T
            what = ("configuration", "pair wXaY")[pair]
            axes.errorbar(
                values,
                y,
                xerr=np.abs(ends - values),
                fmt=marker,
                color=color,
                capsize=3,
                label=f"over the best uniform {what}",
            )
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference in top-1, searched minus uniform (points)")
        legend_above(axes, 1)

    alt = "Difference in top-1 between searched and uniform configurations, by budget"
    size = (4.6, 1.3 + 0.42 * len(names))
    return draw("gains", paint, alt=alt, caption=caption, size=size)


def frontier(
    series: Mapping[str, Sequence[tuple[float, float, tuple[float, float]]]], caption: str
) -> Markup:
    """Confirmed top-1 over cost, with intervals.

    Args:
      series: {CURVE, UNIFORM or ANSWERS: points (GBitOPs, top-1 and its 95 % interval in percent)},
        each with at least one point.
    """

    def paint(axes):
        for name, points in series.items():
            x, y, ends = zip(*sorted(points), strict=True)
            look = _FRONTIER_STYLES[name]
            errors = np.abs(np.transpose(ends) - y)
            axes.errorbar(x, y, yerr=errors, elinewidth=1, capsize=2, label=name, **look)
        costs = [x for points in series.values() for x, *_ in points]
        log_axis(axes.xaxis, min(costs), max(costs))
        axes.set_xlabel("cost (GBitOPs, logarithmic)")
        axes.set_ylabel("top-1 (%)")
        plain_numbers(axes.yaxis)
        axes.legend(loc="lower right")

    alt = "Confirmed top-1 accuracy over cost: searched and uniform configurations"
    return draw("frontier-top1", paint, alt=alt, caption=caption)


def divergence(predicted: Points, measured: Points, caption: str) -> Markup:
    """Predicted and measured divergence over cost, both axes logarithmic."""

    def paint(axes):
        axes.plot(*zip(*predicted, strict=True), "-", color=SERIES[0], label="predicted")
        if measured:
            x, y = zip(*measured, strict=True)
            axes.plot(x, y, "o", color=SERIES[1], markerfacecolor=SURFACE, label="measured")
        points = np.asarray([*predicted, *measured])
        log_axis(axes.xaxis, *_range(points[:, 0]))
        log_axis(axes.yaxis, *_range(points[:, 1]))
        axes.set_xlabel("cost (GBitOPs, logarithmic)")
        axes.set_ylabel("divergence (logarithmic)")
        axes.legend(loc="upper right")

    alt = "Divergence over cost: predicted by the surrogate and measured"
    return draw("frontier-divergence", paint, alt=alt, caption=caption)


def scatter(points: Points, caption: str) -> Markup:
    """Predicted over measured log divergence, with the diagonal."""
    values = np.asarray(points, float).reshape(-1, 2)

    def paint(axes):
        ends = [values.min(), values.max()]
        axes.plot(ends, ends, "--", color=MUTED, linewidth=1, label="predicted = measured")
        axes.plot(*values.T, "o", color=SERIES[0], alpha=0.55, markeredgewidth=0, markersize=4)
        axes.set_xlabel("measured log divergence")
        axes.set_ylabel("predicted log divergence")
        axes.legend(loc="upper left")

    alt = "Predicted against measured log divergence of configurations the model was not fitted on"
    return draw("surrogate-scatter", paint, alt=alt, caption=caption, size=(4.3, 3.6))


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
