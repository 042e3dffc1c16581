"""What a training step takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from rfquant_jax.nn.functional import Arrays


class TrainState(NamedTuple):
    """Everything a step changes.

    Attributes:
      params, ema_params, ema_stats: replicated.
      stats: BatchNorm statistics with a leading device axis; equal on all devices between steps.
      optimizer: the state of the optimizer, replicated.
    """

    params: Arrays
    stats: Arrays
    optimizer: object
    ema_params: Arrays
    ema_stats: Arrays


class Carry(NamedTuple):
    """What one pass hands to the next; between compiled functions with a leading device axis.

    Attributes:
      stats: statistics.
      gradients: accumulators.
      start: sums of the gradients with respect to what the passes of a batch start from, see
        `stem.Start`; empty before the first of them.
    """

    stats: Arrays
    gradients: Arrays
    start: tuple[jax.Array, ...] = ()


class DistillationTargets(NamedTuple):
    """What a pass is distilled from.

    Attributes:
      logits: float32[N, classes], of the max pass, or of an external teacher for the max pass
        itself.
      features: by layer name, of the max pass, in the compute type; empty where nothing is compared
        with them.
    """

    logits: jax.Array
    features: Arrays


class StepInputs(NamedTuple):
    """What all passes of a step share; replicated, and data: no change of it recompiles.

    Attributes:
      configurations: int32[1 + K, L, 2], the max pass's first.
      smallest: int32[L], the smallest weight bit-widths allowed now.
      damping: float32[], eta.
      key: for dropout.
    """

    configurations: jax.Array
    smallest: jax.Array | np.ndarray
    damping: np.float32
    key: jax.Array


class PassInfo(NamedTuple):
    """Which pass of a step it is: replicated, and data, as one program serves all.

    Attributes:
      number: int32[], counts the passes of the step.
      is_max: bool[], whether it is a max pass.
      taught: bool[], whether there is anybody to distill from.
    """

    number: jax.Array | np.int32
    is_max: jax.Array | np.bool_
    taught: jax.Array | np.bool_


class Rates(NamedTuple):
    """What the epoch decides."""

    learning: np.float32
    step_size: np.float32
    damping: np.float32


# What may fail in a step, in the order of `StepReport.failed`.
FAILURES = ("loss", "gradients", "statistics", "update")


class StepReport(NamedTuple):
    """What became of a step's update; replicated.

    Attributes:
      failed: bool[4], whether `FAILURES` were not finite: the losses, the mean gradients, the new
        BatchNorm statistics, the new parameters and the optimizer's state. With any of them the
        update was left out: nothing of the state has changed.
      floored: int32[], elements of step sizes that the update would have taken below
        `lsq.MIN_STEP`, to zero or beyond it, and that were kept there.
      configurations: int32[1 + K, L, 2], what the passes ran, the max pass's first.
    """

    failed: jax.Array | np.ndarray
    floored: jax.Array | np.ndarray
    configurations: jax.Array | np.ndarray | None = None


class Masks(NamedTuple):
    """Candidate masks, bool[L, |B|]: the bit-widths that may be sampled now."""

    weights: np.ndarray
    activations: np.ndarray


class Taken(NamedTuple):
    """A step as it was taken: enough to repeat its passes as long as the state is the same.

    Attributes:
      number: of the step, counted from 1.
      parts, masks, rates, key, teachers: what the step was called with.
      metrics, report: what it gave.
    """

    number: int
    parts: Sequence[Arrays]
    masks: Masks
    rates: Rates
    key: jax.Array
    teachers: Sequence[jax.Array] | None
    metrics: list[Arrays]
    report: StepReport
