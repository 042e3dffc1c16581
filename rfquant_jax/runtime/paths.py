"""Paths as users write them."""

from __future__ import annotations

import os


def expanded(path: str) -> str:
    """A path with environment variables (`$NAME`, `${NAME}`) and `~` replaced, as by a shell.

    Unknown variables and unknown users stay as they are, and so does the empty path.
    """
    return os.path.expanduser(os.path.expandvars(path))
