"""Charts over time: metrics over training steps, frozen bit-widths over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rfquant_jax.report.canvas import (
    MARKERS,
    SERIES,
    draw,
    label,
    legend_above,
    log_axis,
    plain_numbers,
)
from rfquant_jax.report.markup import Markup

_MOST_POINTS = 300  # points per curve; more are averaged in groups to limit the size of the page
_LOG_RATIO = 50  # ratio of values above which a logarithmic axis is used

Points = Sequence[tuple[float, float]]


def curves(
    name: str, series: Mapping[str, Points], *, ylabel: str, alt: str, caption: str, marks=False
) -> Markup:
    """Curves over training steps; on a logarithmic axis if values span a wide range.

    Args:
      series: {name: points (step, value)}, finite, at least one each.
      marks: whether to mark each point, for few points.
    """
    shown = {key: thinned(points) for key, points in series.items()}

    def paint(axes):
        for i, (key, points) in enumerate(shown.items()):
            style = {"color": SERIES[i % len(SERIES)], "label": label(key)}
            marker = MARKERS[i % len(MARKERS)] if marks or len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), marker=marker, **style)
        values = np.concatenate([np.asarray(points)[:, 1] for points in shown.values()])
        if values.min() > 0 and values.max() > _LOG_RATIO * values.min():
            log_axis(axes.yaxis, values.min(), values.max())
        else:
            plain_numbers(axes.yaxis)
        axes.set_xlim(0, 1.03 * max(points[-1][0] for points in shown.values()))
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        if len(shown) > 1:
            legend_above(axes, 2)

    return draw(name, paint, alt=alt, caption=caption, size=(3.7, 2.7))


def freezes(
    layers: Sequence[str],
    frozen: Mapping[str, Sequence[tuple[int, int, int]]],
    epochs: int,
    caption: str,
) -> Markup:
    """Frozen bit-widths over epochs, one row per layer.

    Args:
      layers: names, in forward order.
      frozen: {layer: (first epoch, epoch after the last, bit-width)}.
      epochs: total number of epochs.
    """
    bits = sorted({b for spans in frozen.values() for *_, b in spans})

    def paint(axes):
        for y, layer in enumerate(layers):
            for start, end, b in frozen.get(layer, ()):
                color = SERIES[bits.index(b) % len(SERIES)]
                axes.broken_barh([(start, end - start)], (y - 0.36, 0.72), facecolors=color)
        for i, b in enumerate(bits):
            color = SERIES[i % len(SERIES)]
            axes.broken_barh([], (0, 0), facecolors=color, label=f"{b} bits frozen")
        axes.set_yticks(range(len(layers)), [label(layer) for layer in layers])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, epochs), ylim=(len(layers) - 0.5, -0.5), xlabel="epoch")
        axes.grid(axis="y", visible=False)
        legend_above(axes, len(bits))

    alt = "Layers over epochs: where the scheduler had frozen the smallest bit-width"
    size = (7.4, 1.1 + 0.21 * len(layers))
    return draw("freezes-map", paint, alt=alt, caption=caption, size=size)


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points: means of equally large groups of neighbours."""
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = (points[i : i + size] for i in range(0, len(points), size))
    return [tuple(np.mean(np.asarray(group, float), axis=0).tolist()) for group in groups]
