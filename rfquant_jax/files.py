"""Files that are written in one go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which then takes the place of `path`.

    A reader sees the old one or the new one, never a part, whenever the writer is killed.
    """
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    temporary.replace(path)
