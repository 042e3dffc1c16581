"""Accuracies of one network on the parts of a run's data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from rfquant_jax import settings
from rfquant_jax.data.sources import Source
from rfquant_jax.evaluate import Accuracy, Evaluator
from rfquant_jax.models.pure import Arrays, PureNetwork
from rfquant_jax.run import Run


class Measure:
    """Recalibrates configurations on held-out images and counts what they get right.

    Args:
      run: gives data, devices and constants.
      pure: the network, full-precision or coupled.
    """

    def __init__(self, run: Run, pure: PureNetwork):
        self._run = run
        self.evaluator = Evaluator(pure, run.mesh, run.preprocess)

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

    def held_out(self, params: Arrays, statistics: Arrays, configuration: np.ndarray) -> Accuracy:
        """Accuracy on all held-out training images."""
        return self.on(self._run.data.held_out, params, statistics, configuration)

    def test(self, params: Arrays, statistics: Arrays, configuration: np.ndarray) -> Accuracy:
        """Accuracy on the test part."""
        return self.on(self._run.data.test, params, statistics, configuration)

    def on(
        self, part: Source, params: Arrays, statistics: Arrays, configuration: np.ndarray
    ) -> Accuracy:
        """Accuracy on any images."""
        return self.evaluator.accuracy(params, statistics, configuration, self._exact(part))

    def _exact(self, part: Source) -> Iterator[Arrays]:
        """All images of a part, with a line of progress now and then."""
        log, size = self._run.log, self._run.config.evaluate.batch_size
        total = -(-len(part) // size)
        with log.progress("evaluate", total) as progress:
            for number, batch in enumerate(self._run.pipeline.exact(part, size), 1):
                yield batch
                progress.advance()
                if number % self._run.config.train.log_every == 0:
                    progress.report(f"batches of {size} images")
