"""Every evaluation of a search on disk: what a killed search goes on from, and what it visited."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.bits import Space
from rfquant_jax.files import replacing


@dataclass(frozen=True)
class Visit:
    """One configuration evaluated on one batch."""

    configuration: np.ndarray
    iteration: int
    error: float


class Recorder:
    """Evaluates configurations, or remembers what an earlier start of the same search found.

    An algorithm that only depends on what it is told repeats its way through the recorded answers
    without evaluating, and goes on from there: it needs to know nothing of being killed. A record
    of another search is dropped from where the questions differ.

    Args:
      evaluate: errors of configurations int32[N, L, 2] on the batch of an iteration.
      path: of the file, one JSON line an evaluation; its folder is created.
      header: what the answers depend on; a file with another one is forgotten.
    """

    def __init__(self, evaluate, space: Space, path: Path, header: dict):
        self._evaluate, self._space, self._path = evaluate, space, path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _whole_lines(path)
        self._recorded = lines[1:] if lines[:1] == [header] else []
        self._position = 0
        self.visits: list[Visit] = []
        self._rewrite([header, *self._recorded])
        self._header = header

    @property
    def left(self) -> int:
        """Evaluations that are recorded and not asked for yet."""
        return len(self._recorded) - self._position

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        """Errors float64[N]."""
        names = [self._encoded(configuration) for configuration in configurations]
        asked = {"iteration": int(iteration), "configurations": names}
        if self.left:
            line = self._recorded[self._position]
            if {name: line.get(name) for name in asked} == asked:
                self._position += 1
                return self._visited(configurations, iteration, line["errors"])
            del self._recorded[self._position :]
            self._rewrite([self._header, *self._recorded])
        errors = [float(error) for error in self._evaluate(configurations, iteration)]
        with self._path.open("a") as file:
            file.write(json.dumps(asked | {"errors": errors}) + "\n")
        return self._visited(configurations, iteration, errors)

    def _visited(self, configurations, iteration: int, errors: list[float]) -> np.ndarray:
        self.visits += [
            Visit(np.array(c), int(iteration), error)
            for c, error in zip(configurations, errors, strict=True)
        ]
        return np.asarray(errors, np.float64)

    def _encoded(self, configuration: np.ndarray) -> str:
        """Bit-widths in forward order, weights before activations; one letter each."""
        return "".join(chr(97 + self._space.candidates.index(b)) for b in np.ravel(configuration))

    def _rewrite(self, lines: list[dict]) -> None:
        # In one go, because the last line of a killed search may be cut short.
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _whole_lines(path: Path) -> list[dict]:
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or (lines and not isinstance(line.get("errors"), list)):
            break
        lines.append(line)
    return lines
