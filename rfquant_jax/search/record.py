"""A log of all evaluations of a search, from which an interrupted search resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.files import LineRecord


@dataclass(frozen=True)
class Visit:
    """One configuration evaluated on one batch."""

    configuration: np.ndarray
    iteration: int
    error: float


class Recorder:
    """Evaluates configurations, or returns answers recorded by an earlier start of the same search.

    A deterministic algorithm replays the recorded answers without evaluating anything and continues
    from there, so algorithms need no code for resuming. A record of another search is discarded
    from the first differing question on.

    Args:
      evaluate: errors of configurations int32[N, L, 2] on the batch of an iteration.
      path: path of the file, one JSON line per evaluation; its folder is created.
      header: everything the answers depend on; a file with another header is discarded.
    """

    def __init__(self, evaluate, space: Space, path: Path, header: dict):
        self._evaluate, self._space = evaluate, space
        self._record = LineRecord(path, header, lambda line: isinstance(line.get("errors"), list))
        self._position = 0
        self.visits: list[Visit] = []

    @property
    def left(self) -> int:
        """Recorded evaluations that were not requested yet."""
        return len(self._record.lines) - self._position

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        """Errors float64[N]."""
        names = [self._space.encode(configuration) for configuration in configurations]
        asked = {"iteration": int(iteration), "configurations": names}
        if self.left:
            line = self._record.lines[self._position]
            if {name: line.get(name) for name in asked} != asked:
                self._record.cut(self._position)
        if not self.left:
            errors = [float(error) for error in self._evaluate(configurations, iteration)]
            self._record.append(asked | {"errors": errors})
        errors = self._record.lines[self._position]["errors"]
        self._position += 1
        self.visits += [
            Visit(np.array(c), int(iteration), error)
            for c, error in zip(configurations, errors, strict=True)
        ]
        return np.asarray(errors, np.float64)
