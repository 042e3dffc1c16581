"""Accuracies of one network on the parts of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN
from rfquant_jax.config import settings
from rfquant_jax.data.grouped import share
from rfquant_jax.data.sources import Source
from rfquant_jax.evaluate.evaluator import Accuracy, Evaluator, Outcomes
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run

NO_CONFIGURATION = np.zeros((0, 2), np.int32)  # the configuration of a full-precision network


class Measure:
    """Recalibrates configurations on held-out images and measures their accuracy.

    Args:
      run: provides data, devices and settings.
      functional: the network, full-precision or coupled.
    """

    def __init__(self, run: Run, functional: FunctionalNetwork):
        self._run = run
        self.evaluator = Evaluator(functional, run.mesh, run.preprocess)

    @cached_property
    def _recalibration(self) -> list[np.ndarray]:
        config = self._run.config
        return list(
            self._run.pipeline.full(
                self._run.data.held_out,
                config.evaluate.batch_size,
                config.evaluate.recalibration_images,
                seed=settings.derived_seed(config, "recalibration"),
                augment=config.evaluate.augment,
            )
        )

    def recalibrated(self, params: Arrays, configuration: np.ndarray) -> Arrays:
        """The BatchNorm statistics of a configuration, from held-out training images."""
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

    def _exact(self, part: Source) -> Iterator[Arrays]:
        """All images of a part, with progress messages."""
        log, size = self._run.log, share(self._run.config.evaluate.batch_size, self._run.mesh)
        total = -(-len(part) // size)
        with log.progress("evaluate", total) as progress:
            for number, batch in enumerate(self._run.pipeline.exact(part, size), 1):
                yield batch
                progress.advance()
                if number % self._run.config.train.log_every == 0:
                    progress.report(f"batches of {size} images")


def full_precision(run: Run, part: Source) -> Accuracy | None:
    """Accuracy of the run's full-precision network, or None if there is none."""
    if not networks.exists(run, PRETRAIN):
        return None
    trained = networks.full_precision(run)
    return Measure(run, trained.functional).full_precision(part, trained.params, trained.stats)
