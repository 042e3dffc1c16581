"""Measurements of configurations that are counted, limited and computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Counted:
    """Measures configurations by one metric until the evaluations are used up.

    Repeated configurations are free.
    """

    measure: object  # (configurations, metric) -> float[N]
    metric: str
    left: int
    spent: int = 0
    known: dict[bytes, float] = field(default_factory=dict)

    def __call__(self, configurations: np.ndarray, _: int = 0) -> np.ndarray:
        unknown = {c.tobytes(): c for c in configurations if c.tobytes() not in self.known}
        asked = list(unknown.items())[: self.left]
        if asked:
            values = self.measure(np.stack([c for _, c in asked]), self.metric)
            self.known |= {k: float(v) for (k, _), v in zip(asked, values, strict=True)}
            self.left -= len(asked)
            self.spent += len(asked)
        worst = max(self.known.values(), default=0.0)
        return np.asarray([self.known.get(c.tobytes(), worst) for c in configurations])

    def best(self, budget, space) -> np.ndarray | None:
        """The best measured configuration within a budget."""
        shape = (len(space), 2)
        found = [(v, np.frombuffer(k, np.int32).reshape(shape)) for k, v in self.known.items()]
        within = [(v, c) for v, c in found if budget.fits(c)]
        return min(within, key=lambda pair: pair[0])[1] if within else None


class Memo:
    """Means of a metric, each computed once in the process."""

    def __init__(self, measure: Callable[[np.ndarray, str], np.ndarray]):
        self._measure = measure
        self._known: dict[tuple[str, bytes], float] = {}

    def __call__(self, configurations: np.ndarray, metric: str) -> np.ndarray:
        """float[N] for configurations int32[N, L, 2]."""
        keys = [(metric, c.tobytes()) for c in configurations]
        unknown = [n for n, key in enumerate(keys) if key not in self._known]
        if unknown:
            values = self._measure(configurations[unknown], metric)
            self._known |= {keys[n]: float(v) for n, v in zip(unknown, values, strict=True)}
        return np.asarray([self._known[key] for key in keys])
