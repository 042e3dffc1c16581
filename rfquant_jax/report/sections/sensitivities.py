"""Section "sensitivities": the effect of changing the bit-width of a single layer."""

from __future__ import annotations

from collections.abc import Mapping

from rfquant_jax.report.heatmap import Cell, Group, heat_map
from rfquant_jax.report.markup import Markup, join, paragraph
from rfquant_jax.report.numbers import signed
from rfquant_jax.report.run_files import RunFiles, Unavailable


def sensitivities(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: there is no readable `sensitivity.json`.
    """
    content = run.json("sensitivity.json")
    growth: Mapping[str, Mapping[str, Mapping[str, float]]] = content["growth"]
    values = [abs(v) for of in growth.values() for row in of.values() for v in row.values()]
    if not values:
        raise Unavailable("sensitivity.json holds no values.")
    largest = max(values) or 1.0
    groups = [_group(what, rows, largest) for what, rows in growth.items()]
    layers = list(dict.fromkeys(layer for rows in growth.values() for layer in rows))
    unit = content.get("unit", "cross-entropy")
    text = (
        f"Growth of the {unit} when a single layer goes from its largest bit-width to that of the "
        f"column; all other layers run at {_base(content)}. The stronger the colour, the larger "
        "the change."
    )
    shown = heat_map(layers, groups, label="Sensitivity of each layer")
    return join([paragraph(text), shown])


def _base(content: Mapping) -> str:
    pairs = {tuple(pair) for pair in content.get("base", {}).values()}
    if len(pairs) == 1:
        return "w{}a{}".format(*next(iter(pairs)))
    return "the base configuration"


def _group(what: str, rows: Mapping[str, Mapping[str, float]], largest: float) -> Group:
    bits = sorted({b for row in rows.values() for b in row}, key=int, reverse=True)
    cells = {
        layer: [_cell(row[b], largest) if b in row else None for b in bits]
        for layer, row in rows.items()
    }
    return Group(f"{what}: bits", bits, cells)


def _cell(value: float, largest: float) -> Cell:
    return Cell(signed(value, 2 if largest >= 0.1 else 4), abs(value) / largest, warm=value > 0)
