"""The profile: divergences of configurations from the largest one, on fixed images.

A divergence is the mean Kullback-Leibler divergence of a configuration's probabilities from those
of the largest bit-widths on the same images. It needs no labels. All measured divergences are
stored in a file, so that another budget takes few evaluations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.files import LineRecord

# evaluate(configurations int32[N, L, 2], part) -> divergences float[N]
Evaluate = Callable[[np.ndarray, int], np.ndarray]


def candidates_of(space: Space) -> dict[str, list[int]]:
    """The entries of a profile's header for the candidates of a network."""
    weights, activations = map(list, space.columns)
    if space.has_one_set:  # as in profiles of earlier releases
        return {"candidates": weights}
    return {"candidates": weights, "activation_candidates": activations}


class Profile:
    """Measured divergences by part; parts are disjoint sets of images.

    Args:
      space: the network's configurations.
      path: of the file, one JSON line for each evaluation; its folder is created. None: no file.
      header: everything divergences depend on; a file with another header is discarded.
      evaluate: measures configurations on a part; None: only the content of the file is available.
      chunk: number of configurations measured before they are stored.

    Attributes:
      on_evaluation: called after every evaluation.
    """

    def __init__(
        self,
        space: Space,
        path: Path | None,
        header: dict,
        evaluate: Evaluate | None = None,
        *,
        chunk: int = 32,
    ):
        self._space, self._evaluate, self._chunk = space, evaluate, chunk
        self.on_evaluation: Callable[[], object] = lambda: None
        self._record = LineRecord(path, header, self._is_measurement)
        self._known = {
            (line["part"], line["configuration"]): _number(line["divergence"])
            for line in self._record.lines
        }

    def __len__(self) -> int:
        """Number of evaluations in the file."""
        return len(self._record.lines)

    @property
    def parts(self) -> int:
        """Sets of images that were measured: one more than the largest number."""
        return 1 + max((line["part"] for line in self._record.lines), default=-1)

    def known(self, configuration: np.ndarray, part: int) -> float | None:
        """The divergence of a configuration int32[L, 2] on a part; None if it is not there."""
        return self._known.get((part, self._space.encode(configuration)))

    def measure(self, configurations: np.ndarray, part: int) -> np.ndarray:
        """Divergences of configurations int32[N, L, 2] on a part, float64[N].

        Missing ones are evaluated and appended to the file.

        Raises:
          LookupError: there is no `evaluate` function.
        """
        names = [self._space.encode(configuration) for configuration in configurations]
        unknown = self._unknown(names, part)
        if unknown:
            if self._evaluate is None:
                raise LookupError("this profile has no network to evaluate configurations with")
            for start in range(0, len(unknown), self._chunk):
                chunk = unknown[start : start + self._chunk]
                asked = np.stack([configurations[names.index(name)] for name in chunk])
                for name, value in zip(chunk, self._evaluate(asked, part), strict=True):
                    self._append(part, name, float(value))
        return np.asarray([self._known[part, name] for name in names])

    def missing(self, configurations: np.ndarray, part: int) -> int:
        """How many of the configurations int32[N, L, 2] are not in the file for a part."""
        return len(self._unknown([self._space.encode(c) for c in configurations], part))

    def snapshot(self, part: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `length` evaluations, of one part.

        Returns:
          configurations int32[N, L, 2] and divergences float64[N]; NaN if the output was not
          finite.
        """
        lines = [line for line in self._record.lines[:length] if line["part"] == part]
        configurations = [self._space.decode(line["configuration"]) for line in lines]
        shape = (len(lines), len(self._space), 2)
        values = [_number(line["divergence"]) for line in lines]
        return np.asarray(configurations, np.int32).reshape(shape), np.asarray(values, np.float64)

    def digest(self, length: int) -> str:
        """A checksum of the first `length` evaluations."""
        found = hashlib.sha256()
        for line in self._record.lines[:length]:
            found.update(f"{line['part']} {line['configuration']} {line['divergence']}\n".encode())
        return found.hexdigest()

    def _unknown(self, names: Iterable[str], part: int) -> list[str]:
        return list(dict.fromkeys(name for name in names if (part, name) not in self._known))

    def _append(self, part: int, name: str, value: float) -> None:
        # JSON has no NaN.
        kept = value if math.isfinite(value) else None
        self._record.append({"part": part, "configuration": name, "divergence": kept})
        self._known[part, name] = _number(kept)
        self.on_evaluation()

    def _is_measurement(self, line: dict) -> bool:
        try:
            name, part, value = line["configuration"], line["part"], line["divergence"]
            self._space.decode(name)
            _number(value)
        except (LookupError, OverflowError, TypeError, ValueError):
            return False
        # A bool is an int to `isinstance`.
        return type(name) is str and type(part) is int and type(value) in (int, float, type(None))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
