"""The moves of a search on disk, one JSON line each: what a killed search goes on from."""

from __future__ import annotations

import json
from pathlib import Path

from rfquant_jax.search.greedy import Move


class Trace:
    """A file of moves that belongs to one trained network.

    Args:
      path: of the file; its folder is created.
      checkpoint: where the network comes from; moves made for another one are forgotten.
    """

    def __init__(self, path: Path, checkpoint: str):
        self._path, self._header = path, {"checkpoint": checkpoint}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _whole_lines(path)
        if lines[:1] != [self._header]:
            lines = [self._header]
        self.moves = [Move(**line) for line in lines[1:]]
        # Rewritten, because the last line of a killed search may be cut short.
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(path)

    def add(self, move: Move) -> None:
        """Appends a move."""
        self.moves.append(move)
        with self._path.open("a") as file:
            file.write(json.dumps(move.as_dict()) + "\n")


def _whole_lines(path: Path) -> list[dict]:
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
