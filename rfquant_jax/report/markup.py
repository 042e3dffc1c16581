"""HTML generation; all text is escaped unless it is already markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rfquant_jax.errors import printable

_VOID = frozenset({"meta", "br", "hr", "img", "link"})


class Markup(str):
    """Text that is already HTML and is not escaped again."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      heading: text or markup.
      number: whether its cells are numbers, aligned to the right.
    """

    heading: str
    number: bool = True


def escape(value: object) -> Markup:
    """The value as HTML text; control characters and surrogates become Python escapes."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value), keep="\n\t")))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """Concatenates parts; each is escaped unless it is markup."""
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
      children: content; None is skipped.
      attributes: `class_` becomes `class`, other underscores become hyphens; None is skipped, True
        gives an attribute without a value.
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
    """A line that explains why something is not shown."""
    return tag("p", text, class_="note")


def paragraph(*parts: object) -> Markup:
    """A paragraph of text."""
    return tag("p", *parts)


def scrolling(content: Markup, label: str) -> Markup:
    """A box that scrolls horizontally, also by keyboard, so that the page does not.

    Args:
      label: description of the content for screen readers.
    """
    return tag("div", content, class_="box", tabindex="0", role="region", aria_label=label)


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[object]],
    *,
    label: str,
    stacked: bool = False,
) -> Markup:
    """A table in a scrolling box; the first cell of each row is its heading.

    Args:
      label: description of the table for screen readers.
      stacked: whether rows become cards of labelled values on narrow screens.
    """
    head = join(tag("th", c.heading, scope="col", class_=_class(c)) for c in columns)
    body = join(_row(columns, row, stacked) for row in rows)
    content = (tag("thead", tag("tr", head)), tag("tbody", body))
    return scrolling(tag("table", *content, class_="stacked" if stacked else None), label)


def details(summary: str, *content: object) -> Markup:
    """Collapsed content."""
    return tag("details", tag("summary", summary), *content)


def _row(columns: Sequence[Column], cells: Sequence[object], stacked: bool) -> Markup:
    _, *others = zip(columns, cells, strict=True)
    labels = [c.heading if stacked else None for c, _ in others]
    values = (
        tag("td", cell, class_=_class(c), data_label=name)
        for (c, cell), name in zip(others, labels, strict=True)
    )
    return tag("tr", tag("th", cells[0], scope="row"), *values)


def _class(column: Column) -> str:
    return "number" if column.number else "text"
