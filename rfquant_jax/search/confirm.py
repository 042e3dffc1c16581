"""Evaluations of finalists on the confirmation images, kept in a file."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfquant_jax.evaluate.evaluator import Outcomes
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.files import LineRecord


class Confirmation:
    """Evaluates each configuration once; reuses results of an earlier start.

    Args:
      measure: per-image results of a configuration int32[L, 2] on the confirmation images.
      space: the network's configurations.
      images: number of confirmation images.
      header: everything the results depend on; results under another header are discarded.
      path: path of the file, one JSON line for each configuration; None: no file.
    """

    def __init__(
        self,
        measure: Callable[[np.ndarray], Outcomes],
        space: Space,
        images: int,
        header: dict,
        path: Path | None = None,
    ):
        self._measure, self._space, self._images = measure, space, images
        self._record = LineRecord(path, header, self._is_outcome)
        self._known = {
            line["configuration"]: _outcomes(line["outcomes"]) for line in self._record.lines
        }

    def __call__(self, configuration: np.ndarray) -> Outcomes:
        """Per-image results of a configuration int32[L, 2]."""
        name = self._space.encode(configuration)
        if name not in self._known:
            found = self._measure(configuration)
            self._record.append({"configuration": name, "outcomes": _text(found)})
            self._known[name] = found
        return self._known[name]

    def _is_outcome(self, line: dict) -> bool:
        try:
            found = _outcomes(line["outcomes"])
        except (LookupError, TypeError, ValueError):
            return False
        return isinstance(line.get("configuration"), str) and len(found.labels) == self._images


def _text(outcomes: Outcomes) -> str:
    """Lossless encoding of outcomes in one line of text."""
    columns = [outcomes.loss, outcomes.top1, outcomes.top5, outcomes.labels]
    rows = np.stack([column.astype("<f4") for column in columns])
    return base64.b64encode(rows.tobytes()).decode()


def _outcomes(text: str) -> Outcomes:
    rows = np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(4, -1)
    loss, top1, top5, labels = rows
    return Outcomes(top1 > 0, top5 > 0, loss, labels.astype(np.int32))
