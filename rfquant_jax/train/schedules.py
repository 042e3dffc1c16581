"""Schedules over epochs: learning rates and the weight of oscillation damping.

Values are computed on the host and enter the compiled step as data. Epochs count from 0.
"""

from __future__ import annotations

import math


def learning_rate(
    epoch: int, *, epochs: int, peak: float, minimum: float, warmup_epochs: int
) -> float:
    """Linear warm-up from `minimum`, then a cosine that runs from epoch 0 to `epochs`."""
    if epoch < warmup_epochs:
        return minimum + epoch * (peak - minimum) / warmup_epochs
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def step_size_learning_rate(epoch: int, *, epochs: int, peak: float) -> float:
    """A cosine from `peak` to 0 over the epochs."""
    return peak * (1 + math.cos(math.pi * epoch / epochs)) / 2


def damping(epoch: float, *, epochs: int, start_epoch: int, peak: float) -> float:
    """eta: 0 through epoch `start_epoch`, then a cosine that rises from there to `peak` at the end.

    Args:
      epoch: epochs so far, with the fraction of the current one: eta changes at every update.
    """
    if epoch < start_epoch + 1:
        return 0.0
    progress = (epoch - start_epoch) / (epochs - start_epoch)
    return peak * (1 - math.cos(math.pi * progress)) / 2
