"""Measures networks on the images of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN
from rfquant_jax.config import settings
from rfquant_jax.data.grouped import share
from rfquant_jax.data.sources import Source
from rfquant_jax.evaluate.evaluator import Accuracy, Evaluator
from rfquant_jax.evaluate.measure import Measure, RereadBatches
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run


@dataclass(frozen=True)
class Measured:
    """A trained network and its measurement."""

    trained: networks.Trained
    measure: Measure


def measured(run: Run, stage: str) -> Measured:
    """The trained network of a stage, for measurements.

    The tasks of a run share it, so that its programs are traced and compiled once. It is loaded
    again if its checkpoint has changed.

    Raises:
      UserError: there is no network, or it does not fit.
    """
    known = run.measured.get(stage)
    if known is None or known.trained.origin != networks.origin(run, stage):
        load = networks.full_precision if stage == PRETRAIN else networks.coupled
        trained = load(run)
        known = run.measured[stage] = Measured(trained, measure_of(run, trained.functional))
    return known


def measure_of(run: Run, functional: FunctionalNetwork) -> Measure:
    """Measures a full-precision or coupled network; recalibrates on the held-out images."""
    evaluator = Evaluator(functional, run.mesh, run.preprocess)
    size = share(run.config.evaluate.batch_size, run.mesh)

    def exact(part: Source) -> Iterator[Arrays]:
        with run.log.progress("evaluate", -(-len(part) // size)) as progress:
            for number, batch in enumerate(run.pipeline.exact(part, size), 1):
                yield batch
                progress.advance()
                if number % run.config.train.log_every == 0:
                    progress.report(f"batches of {size} images")

    return Measure(evaluator, RereadBatches(lambda: _recalibration(run)), exact)


def _recalibration(run: Run) -> Iterable[np.ndarray]:
    evaluation = run.config.evaluate
    return run.pipeline.full(
        run.data.held_out,
        evaluation.batch_size,
        evaluation.recalibration_images,
        seed=settings.derived_seed(run.config, "recalibration"),
        augment=evaluation.augment,
    )


def candidate_evaluator(
    run: Run,
    trained: networks.Trained,
    batches: object,
    metric: str,
    starts: Sequence[int] = (0,),
) -> CandidateEvaluator:
    """Evaluates candidates on batches by index.

    Args:
      starts: layers before which an evaluation may start, see `prefix.choose_starts`.
    """
    return CandidateEvaluator(
        trained.functional,
        trained.params,
        run.mesh,
        run.preprocess,
        batches,
        run.plan.space.largest,
        metric,
        starts,
    )


def full_precision(run: Run, part: Source) -> Accuracy | None:
    """Accuracy of the run's full-precision network, or None if there is none."""
    if not networks.exists(run, PRETRAIN):
        return None
    found = measured(run, PRETRAIN)
    return found.measure.full_precision(part, found.trained.params, found.trained.stats)
