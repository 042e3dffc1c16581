"""Accuracies of a network on any images; each configuration is recalibrated first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rfquant_jax.data.loader import Filler
from rfquant_jax.data.sources import Source
from rfquant_jax.evaluate.evaluator import Accuracy, Evaluator, Outcomes
from rfquant_jax.nn.functional import Arrays

NO_CONFIGURATION = np.zeros((0, 2), np.int32)  # the configuration of a full-precision network
KEPT_BYTES = 2**28  # recalibration images kept in memory; those of ImageNet would take 1 GB

# exact(source) -> all its images as batches {"image", "label"}, see `Pipeline.exact`
ExactBatches = Callable[[Source], Iterable[Arrays]]


class RereadBatches:
    """An iterable of batches that reads them again each time, unless they are small.

    Args:
      read: starts reading.
      limit: batches of at most so many bytes together are kept in memory.
    """

    def __init__(self, read: Callable[[], Iterable[np.ndarray | Filler]], limit: int = KEPT_BYTES):
        self._read, self._limit = read, limit
        self._kept: list[np.ndarray | Filler] | None = None

    def __iter__(self) -> Iterator[np.ndarray | Filler]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, size = [], 0
        for batch in self._read():
            size += (batch.batch if isinstance(batch, Filler) else batch).nbytes
            if size <= self._limit:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= self._limit:
            self._kept = kept


class Measure:
    """Recalibrates configurations on fixed images and measures their accuracy.

    Args:
      evaluator: the evaluation of a full-precision or coupled network.
      recalibration: batches of images for the BatchNorm statistics; iterated once for each
        configuration.
      exact: all images of a source as batches.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        recalibration: Iterable[np.ndarray | Filler],
        exact: ExactBatches,
    ):
        self.evaluator = evaluator
        self._recalibration, self._exact = recalibration, exact

    def recalibrated(self, params: Arrays, configuration: np.ndarray) -> Arrays:
        """The BatchNorm statistics of a configuration, see `Evaluator.recalibrate`."""
        return self.evaluator.recalibrate(params, configuration, self._recalibration)

    def running(self, params: Arrays, stats: Arrays) -> Arrays:
        """The BatchNorm statistics of a full-precision network after training."""
        return self.evaluator.running_statistics(params, stats, NO_CONFIGURATION)

    def quantized(self, part: Source, params: Arrays, configuration: np.ndarray) -> Accuracy:
        """Accuracy of a configuration, recalibrated, on any images."""
        return self.outcomes(part, params, configuration).accuracy

    def outcomes(
        self,
        part: Source,
        params: Arrays,
        configuration: np.ndarray,
        statistics: Arrays | None = None,
    ) -> Outcomes:
        """Per-image results of a configuration on any images.

        Args:
          statistics: its BatchNorm statistics; None: they are recalibrated.
        """
        if statistics is None:
            statistics = self.recalibrated(params, configuration)
        batches = self._exact(part)
        found = self.evaluator.outcomes(params, statistics, configuration, batches)
        return found.first(len(part))

    def full_precision(self, part: Source, params: Arrays, stats: Arrays) -> Accuracy:
        """Accuracy of a full-precision network on any images."""
        statistics = self.running(params, stats)
        return self.evaluator.accuracy(params, statistics, NO_CONFIGURATION, self._exact(part))
