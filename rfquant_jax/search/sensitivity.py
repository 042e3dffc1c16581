"""How much the error grows when one knob alone is turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfquant_jax.search.greedy import Evaluate, worst_for_nan
from rfquant_jax.search.variables import Knobs


@dataclass(frozen=True)
class Sensitivity:
    """Errors one knob away from a configuration.

    Attributes:
      base: int32[L, 2].
      error: of the base, mean over the batches.
      growth: for each knob in order, {bit-width: error with it - error of the base}, means over
        the batches; 0 at the base's own bit-width.
    """

    base: np.ndarray
    error: float
    growth: tuple[dict[int, float], ...]


def measure(
    evaluate: Evaluate, knobs: Knobs, base: np.ndarray, batches: int, first: int = 0
) -> Sensitivity:
    """Evaluates every bit-width of every knob, one at a time.

    All are compared on the same batches, so that what a batch makes hard for all cancels out. An
    error that is not a number counts as the largest one seen.

    Args:
      evaluate: errors of configurations on one batch.
      batches: how many to average over, from number `first` on.
    """
    places = [
        (index, bits)
        for index, knob in enumerate(knobs.knobs)
        for bits in knob.allowed
        if bits != knob.read(base)
    ]
    turned = [knobs.knobs[index].turned(base, bits) for index, bits in places]
    errors = np.stack(
        [
            np.asarray(evaluate(np.stack([base, *turned]), first + batch), np.float64)
            for batch in range(batches)
        ]
    )
    means = worst_for_nan(errors).mean(axis=0)
    growth: list[dict[int, float]] = [{knob.read(base): 0.0} for knob in knobs.knobs]
    for (index, bits), error in zip(places, means[1:], strict=True):
        growth[index][bits] = float(error - means[0])
    return Sensitivity(base, float(means[0]), tuple(growth))
