"""The multiplier with which a kernel reproduces the codes of a sum of two codes.

    fast(acc) = clip(round(M * acc), low, high),    acc = a + b

As in `requantize`, both sides of every code boundary give a bound of M, and M is the middle of what
they leave. Kernels compute M * a + M * b + zero point in float32, in any order, so that every
product must keep a distance from rounding ties.
"""

from __future__ import annotations

import numpy as np

from rfquant_jax.export.ir.boundaries import Target, runtime_codes
from rfquant_jax.export.ir.model import LayerData

_ROUNDINGS = 8  # of kernels, each by at most 2^-24 of the largest intermediate result
_LARGEST_ZERO = 128


def sum_multiplier(data: LayerData, target: Target) -> np.float32 | None:
    """M for a residual addition and the quantizer that reads it; None if there is none.

    Args:
      data: of the addition.
    """
    low, high = data.input_range
    sums = np.arange(2 * low, 2 * high + 1)
    sums = sums[sums != 0]
    codes = runtime_codes(sums, np.float32(data.scale[0]), np.float32(data.bias[0]), target)
    # Code c is kept while M * acc lies between c - 0.5 and c + 0.5; outer codes are open.
    below = np.where(codes > target.low, codes - 0.5, -np.inf)
    above = np.where(codes < target.high, codes + 0.5, np.inf)
    below, above = np.where(sums > 0, (below, above), (above, below)) / sums
    least, most = max(below.max(), 0.0), above.min()
    most = most if np.isfinite(most) else max(2 * least, 1.0)
    multiplier = np.float32((least + most) / 2)
    slack = np.minimum(multiplier - below, above - multiplier) * np.abs(sums)
    return multiplier if slack.min() > _error(multiplier, high - low) else None


def _error(multiplier: np.float32, largest: int) -> float:
    """A bound of the rounding error of a kernel, in codes."""
    return _ROUNDINGS * 2.0**-24 * (4 * largest * float(multiplier) + _LARGEST_ZERO)
