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


class _SilencingHook:
    """Passes everything but these tracebacks on to the hook that it replaced."""

    def __init__(self, replaced: Callable[[Any], object]):
        self.replaced = replaced

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.replaced(unraisable)


def silence_late_callbacks() -> None:
    """Suppresses these tracebacks, if they are not suppressed already."""
    if not isinstance(sys.unraisablehook, _SilencingHook):
        sys.unraisablehook = _SilencingHook(sys.unraisablehook)


def restore_late_callbacks() -> None:
    """Undoes `silence_late_callbacks`, unless another hook was installed in the meantime."""
    if isinstance(sys.unraisablehook, _SilencingHook):
        sys.unraisablehook = sys.unraisablehook.replaced
