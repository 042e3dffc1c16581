"""Suppresses output of C code to standard output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_STDOUT = 1


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Redirects file descriptor 1 to the null device inside the block.

    For libraries that print from C or C++, bypassing `sys.stdout`. Earlier output of Python and C
    is flushed first; output that C code buffers inside the block is dropped. The descriptor belongs
    to the whole process, so output of other threads is also lost. Does nothing without standard
    output.
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
    """A duplicate of the descriptor of standard output, or None if there is none."""
    # If the process was started without standard output, descriptor 1 may be another open file.
    if sys.__stdout__ is None:
        return None
    try:
        return os.dup(_STDOUT)
    except OSError:  # closed since
        return None


def _flush() -> None:
    """Flushes the buffers of Python and C for standard output."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
