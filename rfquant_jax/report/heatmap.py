"""Heat maps as HTML tables: readable on a phone and by screen readers, printed as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rfquant_jax.report.markup import Markup, join, scrolling, tag


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Attributes:
      text: what it says.
      heat: strength of its colour from 0 to 1; other values are clipped.
      warm: whether that is the warm colour or the cool one.
    """

    text: object
    heat: float = 0.0
    warm: bool = False


@dataclass(frozen=True)
class Group:
    """Columns under one heading.

    Attributes:
      heading: text or markup.
      columns: their own headings.
      cells: {row: a cell for each column, None for an empty one}.
    """

    heading: str
    columns: Sequence[str]
    cells: Mapping[str, Sequence[Cell | None]]


def heat_map(
    rows: Sequence[str], groups: Sequence[Group], *, label: str, corner: str = "layer"
) -> Markup:
    """A table of rows by groups of columns with coloured cells.

    Args:
      rows: headings; a row that a group does not have is empty there.
      label: what the table shows, for screen readers.
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
