"""Number formats of the report: digits, signs, units, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TOP1 = "top\N{NON-BREAKING HYPHEN}1"  # for headings, which wrap
FINE_IMAGES = 1000  # number of images above which a second decimal of a percentage is significant

BETTER, WORSE, EQUAL = "better", "worse", "cannot be told apart"


def digits(images: int | None) -> int:
    """Number of decimals of a percentage of `count` images."""
    return 2 if images is not None and images > FINE_IMAGES else 1


def fixed(value: float | None, decimals: int) -> str:
    """A number with a given number of decimals; a dash for None and non-finite numbers."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float | None, decimals: int) -> str:
    """A difference with its sign; no sign if it rounds to zero."""
    text = fixed(value, decimals)
    positive = value is not None and text != MISSING and float(text.replace(MINUS, "-")) > 0
    if text.startswith(MINUS) and float(text[1:]) == 0:
        return text[1:]
    return f"+{text}" if positive else text


def interval(bounds: Sequence[float] | None, decimals: int, *, sign: bool = False) -> str:
    """Both ends of an interval, or "" for None."""
    if bounds is None:
        return ""
    low, high = bounds
    write = signed if sign else fixed
    return f"[{write(low, decimals)}, {write(high, decimals)}]"


def cost(value: float | None) -> str:
    """A cost in GBitOPs, megabytes or milliseconds, to four digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.4g}"


def size(count: int) -> str:
    """A number of bytes in a human-readable unit."""
    if count < 1024:
        return f"{count} B"
    value = count / 1024
    for unit in ("KB", "MB", "GB"):
        if value < 1023.95 or unit == "GB":
            return f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the loop ends at GB")


def verdict(bounds: Sequence[float] | None, *, higher_is_better: bool) -> str | None:
    """The verdict of a paired difference about the searched configuration.

    Args:
      bounds: 95 % interval of the difference, searched minus uniform.
      higher_is_better: True for accuracies, False for cross-entropies.
    """
    if bounds is None:
        return None
    low, high = bounds if higher_is_better else (-bounds[1], -bounds[0])
    if low > 0:
        return BETTER
    return WORSE if high < 0 else EQUAL
