"""Files that are written in one go, and records that a kill can only cut short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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


class LineRecord:
    """A file of JSON lines that grows: what was found before stays, whenever the writer is killed.

    Args:
      path: its folder is created.
      header: the first line, what all others depend on; a file with another one is forgotten.
      valid: whether a line is one of this record; it ends before the first that is not.

    Attributes:
      lines: behind the header.
    """

    def __init__(self, path: Path, header: dict, valid: Callable[[dict], bool]):
        self._path, self._header = path, header
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _whole_lines(path, valid)
        self.lines: list[dict] = found[1:] if found[:1] == [header] else []
        self._rewrite()

    def append(self, line: dict) -> None:
        """Adds a line, on disk, too."""
        self.lines.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def cut(self, count: int) -> None:
        """Keeps the first so many lines."""
        del self.lines[count:]
        self._rewrite()

    def _rewrite(self) -> None:
        # In one go, because the last line of a killed program may be cut short.
        with replacing(self._path) as temporary:
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in (self._header, *self.lines))
            )


def _whole_lines(path: Path, valid: Callable[[dict], bool]) -> list[dict]:
    lines: list[dict] = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or (lines and not valid(line)):
            break
        lines.append(line)
    return lines
