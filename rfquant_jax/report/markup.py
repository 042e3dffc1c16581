"""HTML as values: every text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rfquant_jax.errors import printable

_VOID = frozenset({"meta", "br", "hr", "img", "link"})


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      heading: text or markup.
      number: whether its cells are numbers, which are aligned to the right.
    """

    heading: str
    number: bool = True


def escape(value: object) -> Markup:
    """The value as HTML text; control characters and lone surrogates as in a Python string."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value), keep="\n\t")))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """The parts, each escaped unless it is markup, one after the other."""
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
      children: its content; None is left out.
      attributes: `class_` is written as `class`, other underscores as hyphens; None is left out,
        True is an attribute without a value.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(c for c in children if c is not None)}</{name}>")


def note(text: str) -> Markup:
    """A line that says why something is not shown."""
    return tag("p", text, class_="note")


def paragraph(*parts: object) -> Markup:
    """A paragraph of text."""
    return tag("p", *parts)


def scrolling(content: Markup, label: str) -> Markup:
    """A box that scrolls sideways by itself, also with the keyboard, so that the page never does.

    Args:
      label: what is in it, for screen readers.
    """
    return tag("div", content, class_="box", tabindex="0", role="region", aria_label=label)


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[object]],
    *,
    label: str,
    class_: str | None = None,
) -> Markup:
    """A table in a scrolling box; the first cell of each row is its heading.

    Args:
      label: what the table shows, for screen readers.
    """
    head = join(tag("th", c.heading, scope="col", class_=_align(c)) for c in columns)
    body = join(_row(columns, row) for row in rows)
    content = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_=class_)
    return scrolling(content, label)


def details(summary: str, *content: object) -> Markup:
    """Content that is folded away until it is asked for."""
    return tag("details", tag("summary", summary), *content)


def _row(columns: Sequence[Column], cells: Sequence[object]) -> Markup:
    first, *others = zip(columns, cells, strict=True)
    heading = tag("th", first[1], scope="row")
    return tag("tr", heading, *(tag("td", cell, class_=_align(c)) for c, cell in others))


def _align(column: Column) -> str | None:
    return "number" if column.number else None
