"""Keeps what C code writes to standard output off the terminal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_STDOUT = 1


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Sends file descriptor 1 to the null device while the block runs.

    For libraries that print from C or C++, past `sys.stdout`. What was printed before, by Python or
    by C, is written first; what C code has buffered in the block is dropped with the rest. The
    descriptor belongs to the whole process: what other threads print in the meantime is lost, too.
    Where the process has no standard output, nothing happens.
    """
    saved = _duplicate()
    if saved is None:
        yield
        return
    _flush()
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, _STDOUT)
        finally:
            os.close(null)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, _STDOUT)
    finally:
        os.close(saved)


def _duplicate() -> int | None:
    """A second descriptor of standard output, or None where there is none."""
    # Of a process that was started without one, descriptor 1 may be a file that was opened since.
    if sys.__stdout__ is None:
        return None
    try:
        return os.dup(_STDOUT)
    except OSError:  # closed since
        return None


def _flush() -> None:
    """Writes out what Python and C have buffered for standard output."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
