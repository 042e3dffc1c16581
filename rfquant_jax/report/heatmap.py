"""Heat maps as HTML tables, usable on phones, by screen readers and in print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rfquant_jax.report.markup import Markup, join, scrolling, tag


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Attributes:
      text: content of the cell.
      heat: strength of the colour, clipped to [0, 1].
      warm: whether to use the warm or the cool colour.
    """

    text: object
    heat: float = 0.0
    warm: bool = False


@dataclass(frozen=True)
class Group:
    """Columns under one heading.

    Attributes:
      heading: text or markup.
      columns: headings of the columns.
      cells: {row: one cell per column, None if empty}.
    """

    heading: str
    columns: Sequence[str]
    cells: Mapping[str, Sequence[Cell | None]]


def heat_map(
    rows: Sequence[str], groups: Sequence[Group], *, label: str, corner: str = "layer"
) -> Markup:
    """A table with coloured cells, with groups of columns.

    Args:
      rows: row headings; rows missing in a group are empty there.
      label: description of the table for screen readers.
      corner: heading of the row headings.
    """
    above = [tag("th", corner, scope="col", rowspan="2")]
    above += [
        tag("th", group.heading, scope="colgroup", colspan=len(group.columns), class_="first")
        for group in groups
    ]
    below = [
        tag("th", column, scope="col", class_="first" if i == 0 else None)
        for group in groups
        for i, column in enumerate(group.columns)
    ]
    head = tag("thead", tag("tr", *above), tag("tr", *below))
    body = tag("tbody", join(_row(row, groups) for row in rows))
    return scrolling(tag("table", head, body, class_="heat"), label)


def _row(row: str, groups: Sequence[Group]) -> Markup:
    cells = [
        _cell(cell, first=i == 0)
        for group in groups
        for i, cell in enumerate(group.cells.get(row, [None] * len(group.columns)))
    ]
    return tag("tr", tag("th", row, scope="row"), *cells)


def _cell(cell: Cell | None, *, first: bool) -> Markup:
    classes = ["first"] if first else []
    if cell is None:
        return tag("td", class_=" ".join([*classes, "empty"]))
    heat = max(0.0, min(1.0, cell.heat))
    classes += ["warm" if cell.warm else "cool"]
    return tag("td", cell.text, class_=" ".join(classes), style=f"--heat: {heat:.2f}")
