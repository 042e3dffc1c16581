"""Suppresses what tensorstore prints after a failed read or write of orbax.

orbax stops at the first array that cannot be read or written. Tensorstore then reports all other
arrays to an event loop that is already closed, and prints a traceback for each, from the failure
until the process ends. So the hook is installed before the work starts, and removed only if the
work succeeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_replaced: list[Callable[[Any], object]] = []  # the hook before ours, if ours is installed


def silence_late_callbacks() -> None:
    """Suppresses these tracebacks; everything else is passed on. Installed once in a process."""
    if not _replaced:
        _replaced.append(sys.unraisablehook)
        sys.unraisablehook = _hook


def restore_late_callbacks() -> None:
    """Undoes `silence_late_callbacks`, unless another hook was installed in the meantime."""
    if _replaced and sys.unraisablehook is _hook:
        sys.unraisablehook = _replaced.pop()


def _hook(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _replaced[-1](unraisable)
