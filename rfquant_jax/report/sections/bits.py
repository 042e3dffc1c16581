"""Section "bits": the bit-widths of each layer, for each budget."""

from __future__ import annotations

from collections.abc import Mapping

from rfquant_jax.report.heatmap import Cell, Group, heat_map
from rfquant_jax.report.markup import Markup, join, paragraph, tag
from rfquant_jax.report.numbers import cost, fixed
from rfquant_jax.report.run_files import RunFiles

MEAN = "mean"


def bits(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: nothing was searched.
    """
    found = [content for _, content in run.searches]
    layers = list(found[0]["layers"])
    every = [b for content in found for pair in content["layers"].values() for b in pair]
    groups = [_group(content, min(every), max(every)) for content in found]
    text = (
        "Bit-widths of weights (w) and activations (a) of each searched layer, in forward order. "
        "The stronger the colour, the more bits."
    )
    shown = heat_map([*layers, MEAN], groups, label="Bits of each layer, by budget")
    return join([paragraph(text), shown])


def _group(content: Mapping, fewest: int, most: int) -> Group:
    cells = {
        layer: [Cell(b, 0.08 + 0.92 * (b - fewest) / max(most - fewest, 1)) for b in pair]
        for layer, pair in content["layers"].items()
    }
    columns = list(zip(*content["layers"].values(), strict=True))
    cells[MEAN] = [Cell(fixed(sum(column) / len(column), 1)) for column in columns]
    heading = join([tag("code", content["budget"]), tag("small", _cost(content))])
    return Group(heading, ("w", "a"), cells)


def _cost(content: Mapping) -> str:
    return f"{cost(content.get('bitops_g'))} GBitOPs"
