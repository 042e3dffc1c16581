"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with environment variables (`$NAME`, `${NAME}`) and `~` replaced, as by a shell.

    Unknown variables and unknown users stay as they are.
    """
    return Path(os.path.expanduser(os.path.expandvars(path)))
