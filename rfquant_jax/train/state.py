"""What a training step takes and gives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from rfquant_jax.models.pure import Arrays


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
    """What one pass hands to the next: statistics and gradient accumulators.

    Between compiled functions both carry a leading device axis.
    """

    stats: Arrays
    gradients: Arrays


class Reference(NamedTuple):
    """What a pass is distilled from.

    Attributes:
      logits: [N, classes], of the max pass, or of an external teacher for the max pass itself.
      features: by layer name, of the max pass; empty where nothing is compared with them.
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


class Rates(NamedTuple):
    """What the epoch decides."""

    learning: np.float32
    step_size: np.float32
    damping: np.float32


class Masks(NamedTuple):
    """Candidate masks, bool[L, |B|]: the bit-widths that may be sampled now."""

    weights: np.ndarray
    activations: np.ndarray
