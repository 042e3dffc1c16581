"""Matplotlib figures as inline SVG with colours and fonts from the page.

Matplotlib has no CSS variables. Figures are drawn in unique placeholder colours, which are replaced
by CSS variables in the SVG. So one drawing works in light mode, in dark mode and in print.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from rfquant_jax.errors import printable
from rfquant_jax.report.markup import Markup, escape, scrolling, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#110101", "#110202", "#110303", "#110404", "#110505", "#110606")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", SURFACE: "--surface"} | {
    color: f"--series-{i + 1}" for i, color in enumerate(SERIES)
}
MARKERS = ("o", "s", "^", "D", "v", "P")

_LONGEST_LABEL = 40
_WIDE = 5.0  # inches; wider figures scroll on phones instead of becoming unreadable
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: selectable, without embedded fonts
    "text.parse_math": False,  # names come from users: no math mode
    "font.size": 8.5,
    "font.family": ["DejaVu Sans"],  # used to compute widths; the page's font is narrower
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


def draw(
    name: str,
    paint: Callable[[Axes], None],
    *,
    alt: str,
    caption: str | Markup,
    size: tuple[float, float] = (4.3, 3.0),
) -> Markup:
    """A `<figure>` with an inline SVG.

    Args:
      name: name of the figure within the page, for ids inside the SVG.
      paint: draws into prepared axes.
      alt: alternative text.
      size: width and height in inches at nominal text size.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    # The browser's font has characters missing here, and problems from damaged files are
    # visible in the figure, so warnings are ignored.
    with warnings.catch_warnings(), matplotlib.rc_context(_SETTINGS | {"svg.hashsalt": name}):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        figure.savefig(text, format="svg")
    picture = _inline(text.getvalue(), name, alt, size)
    class_ = "wide" if size[0] > _WIDE else None
    return tag("figure", scrolling(picture, alt), tag("figcaption", caption), class_=class_)


def label(text: object) -> str:
    """A user's text as a label: printable, and truncated to fit a chart."""
    shown = printable(str(text))
    if len(shown) <= _LONGEST_LABEL:
        return shown
    return shown[: _LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"


def log_axis(axis, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 times powers of ten.

    With fewer than three of these in the range, ticks are equidistant.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [f * 10.0**p for p in powers for f in factors]
    ticks = [t for t in ticks if low / 1.05 <= t <= high * 1.05]
    axis.set_major_locator(FixedLocator(ticks) if len(ticks) > 2 else MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def plain_numbers(axis) -> None:
    """A linear axis without trailing zeros and without a common factor."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def legend_above(axes: Axes, columns: int) -> None:
    """A legend above the axes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def _inline(svg: str, name: str, alt: str, size: tuple[float, float]) -> Markup:
    """The `<svg>` element, without external references."""
    body = re.search(r"<svg\b[^>]*>(.*)</svg>", svg, re.DOTALL)[1]
    for unwanted in ("<metadata>.*?</metadata>", "<style.*?</style>", "<!--.*?-->"):
        body = re.sub(unwanted, "", body, flags=re.DOTALL)
    used = frozenset(re.findall(r"#([\w-]+)", body))
    # Only tags are changed: text between them may come from a user.
    body = re.sub(r"<[^>]*>", lambda match: _tag(match[0], name, used), body)
    width, height = (72 * side for side in size)
    return Markup(
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="--width: {96 * size[0]:.0f}px"><title>{escape(alt)}</title>{body}</svg>'
    )


def _tag(text: str, name: str, used: frozenset[str]) -> str:
    """A tag with ids unique within the page, and with the page's colours and fonts."""

    def keep(match: re.Match) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r'\s+id="([^"]*)"', keep, text)
    text = re.sub(r'(?:xlink:)?href="#([\w-]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([\w-]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font: (\w+) ([\d.]+px)[^;\"]*", r"font-size: \2; font-weight: \1", text)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(f": {color}", f": var({variable})")
    return re.sub(r"\s*\n\s*", " ", text)
