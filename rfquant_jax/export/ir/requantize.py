"""Requantization constants with which int8 kernels reproduce the integer runtime's codes exactly.

Integer kernels take int8 weights, an int32 bias and one float32 multiplier per channel:

    fast(acc) = clip(round((k * acc + B) * M), low, high)

With k = 1 the bias is rounded to integer accumulators, which moves some code boundaries. Low-bit
weights leave room in int8: the kernel is multiplied by k, so that B has a resolution of 1 / k
accumulators. Low-bit inputs leave room as well: multiplying the stored codes by 2^s multiplies k by
2^s.

`fast` is monotone, like the runtime's `code` (see `boundaries`). So both are equal for *every*
accumulator if they are equal on both sides of every code boundary. For given k and B, each side
gives a lower or an upper bound of M. A channel is solved if the interval of M is not empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfquant_jax.export.ir.boundaries import Boundaries, Target
from rfquant_jax.export.ir.model import INT32_LIMIT, LayerData

LARGEST_WEIGHT = 127
NEAREST_BIASES = np.arange(-12, 13)  # around the exact bias, in units of 1 / k
# Relative tolerances of M. Runtimes round the multiplier and its product several times, by 2^-24
# each. The search stops at an interval of WIDE_ENOUGH.
NARROWEST, WIDE_ENOUGH = 2.0**-21, 2.0**-14
_MOST_AT_ONCE = 2**22  # maximum array elements


@dataclass
class Requantization:
    """Constants that map each channel's accumulators to codes.

    Attributes:
      factor: int64[O], k, the factor of the kernel; negative if the scale is, zero if the code does
        not depend on the accumulator.
      bias: int64[O], B.
      multiplier: float32[O], M, positive.
      width: float64[O], relative tolerance of M in either direction; 0 if the channel has no
        solution, in which case its other entries are undefined unless `wrong` is finite.
      wrong: float64[O], the chance that a code is wrong: 0 if the channel has a solution, infinite
        if it has no constants; see `requantize_likely`.
      gain: factor of the stored input codes; every k is a multiple of it.
    """

    factor: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    width: np.ndarray
    wrong: np.ndarray
    gain: int = 1

    @property
    def solved(self) -> np.ndarray:
        """Whether each channel has a solution, bool[O]."""
        return self.width > 0

    def kernel(self, codes: np.ndarray) -> np.ndarray:
        """A layer's kernel int8[O, ...] times the factors, without the gain, int8."""
        factor = (self.factor // self.gain).reshape(-1, *[1] * (codes.ndim - 1))
        return (codes.astype(np.int64) * factor).astype(np.int8)


def fast_codes(accumulators, factor, bias, multiplier, target: Target) -> np.ndarray:
    """The codes of integer kernels from the unscaled kernel's accumulators, int64."""
    product = (accumulators * factor + bias).astype(np.float32) * multiplier
    return np.rint(np.clip(product, target.low, target.high)).astype(np.int64)


def solve(
    data: LayerData, target: Target, smallest_weight: int = -128, gain: int = 1
) -> Requantization:
    """Finds k, B and M for each channel, with the widest interval of M.

    Args:
      data: a layer for which `is_integer` holds.
      smallest_weight: smallest value of the stored kernel; -127 for runtimes without -128.
      gain: factor of the stored input codes.
    """
    boundaries = Boundaries.of(data, target)
    found = _constant_channels(boundaries)
    found.gain = gain
    largest = largest_factors(data, boundaries.sign, smallest_weight)
    # Down to half the largest k: a multiple of any smaller solution lies in the upper half.
    for below in range(int(largest.max(initial=0) + 1) // 2):
        factor = largest - below
        wanted = (found.width < WIDE_ENOUGH) & (2 * factor > largest) & ~boundaries.constant
        rows = np.flatnonzero(wanted)
        size = max(_MOST_AT_ONCE // (len(NEAREST_BIASES) * max(len(boundaries.codes), 1)), 1)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            channels = Channels(data, boundaries, target, part)
            _try(found, channels, gain * factor[part], target)
    found.wrong[found.solved] = 0
    return found


def _constant_channels(boundaries: Boundaries) -> Requantization:
    """Solves the channels with a single code: (0 * acc + code) * 1."""
    code = np.where(boundaries.constant, boundaries.least_code, 0)
    width = np.where(boundaries.constant, 0.5 / (np.abs(code) + 1), 0.0)
    ones = np.ones(len(code), np.float32)
    wrong = np.full(len(code), np.inf)
    return Requantization(np.zeros(len(code), np.int64), code, ones, width, wrong)


def largest_factors(data: LayerData, sign: np.ndarray, smallest_weight: int) -> np.ndarray:
    """The largest k for which each channel of the kernel fits into int8; 0 if none."""
    weights = data.kernel.astype(np.int64).reshape(len(data.kernel), -1) * sign[:, None]
    up, down = np.maximum(weights.max(1), 1), np.maximum(-weights.min(1), 1)
    return np.minimum(LARGEST_WEIGHT // up, -smallest_weight // down)


class Channels:
    """Some channels of a layer; the first axis of every array is the channel.

    Attributes:
      rows: indices of the channels in the layer.
      sign: int64[n].
      exact_bias: float64[n], the bias in accumulators.
      first: int64[n, C], the first accumulator above each boundary; the one below is first - 1.
      below, above: bool[n, C], whether these two are reachable.
      threshold: float64[C], the value that separates the codes.
      least, most: int64[n, 1], the smallest and the largest reachable accumulator.
      magnitude: int64[n], upper bound on the magnitude of accumulators.
    """

    def __init__(self, data: LayerData, boundaries: Boundaries, target: Target, rows: np.ndarray):
        self.rows, self.sign = rows, boundaries.sign[rows]
        scale, bias = (v.astype(np.float32).astype(np.float64) for v in (data.scale, data.bias))
        self.exact_bias = bias[rows] / np.abs(scale[rows])
        self.first = boundaries.first[rows]
        self.least, self.most = boundaries.least[rows, None], boundaries.most[rows, None]
        self.below, self.above = self.first > self.least, self.first <= self.most
        self.threshold = boundaries.codes - 0.5
        self.magnitude = np.maximum(np.abs(self.least), np.abs(self.most))[:, 0]

    def keep(self, boundaries: np.ndarray) -> None:
        """Drops all other boundaries, given as bool[C]."""
        for name in ("first", "below", "above", "threshold"):
            setattr(self, name, getattr(self, name)[..., boundaries])

    def bounds(self, factor: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The open interval of M in which both sides of each boundary get their codes.

        Above a boundary (k * first + B) * M > threshold, below it (k * (first - 1) + B) * M <
        threshold. With a negative threshold both sides change signs and swap roles.

        Args:
          bias: int64[n, biases].

        Returns:
          lower and upper bounds, float64[n, biases, C]: 0 and infinity if there is none. A lower
          bound is infinite if no M is large enough.
        """
        above = (factor[:, None] * self.first)[:, None] + bias[:, :, None]
        below = above - factor[:, None, None]
        exceeds = np.where(self.threshold > 0, above, -below)
        stays = np.where(self.threshold > 0, below, -above)
        size = np.abs(self.threshold)
        lower = np.where(exceeds > 0, size / np.maximum(exceeds, 1), np.inf)
        upper = np.where(stays > 0, size / np.maximum(stays, 1), np.inf)
        exceeds_counts, stays_counts = (counts[:, None] for counts in self.counts())
        return np.where(exceeds_counts, lower, 0), np.where(stays_counts, upper, np.inf)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether the accumulators that give the lower and the upper bounds are reachable."""
        positive = self.threshold > 0
        return (
            np.where(positive, self.above, self.below),
            np.where(positive, self.below, self.above),
        )

    def interval(self, factor: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The intersection (lower, upper) of all bounds, float64[n, biases]; may be empty."""
        lower, upper = self.bounds(factor, bias)
        lower, upper = lower.max(-1, initial=0), upper.min(-1, initial=np.inf)
        upper = np.where(np.isfinite(upper), upper, 3 * lower)
        possible = np.isfinite(lower)
        return np.where(possible, lower, 0), np.where(possible, upper, 0)

    def equal(self, factor, bias, multiplier, target: Target) -> np.ndarray:
        """Whether the codes on both sides of every boundary are right in float32, bool[n]."""
        numbers = factor[:, None], bias[:, None], multiplier[:, None]
        above = fast_codes(self.first, *numbers, target) > self.threshold
        below = fast_codes(self.first - 1, *numbers, target) < self.threshold
        return ((above | ~self.above) & (below | ~self.below)).all(1)


def _try(found: Requantization, channels: Channels, factor: np.ndarray, target: Target) -> None:
    """Stores the solutions with these k that improve on earlier ones."""
    nearest = np.rint(channels.exact_bias * factor)
    fits = np.abs(nearest) + factor * channels.magnitude.astype(np.float64) < INT32_LIMIT - 16
    bias = np.where(fits, nearest, 0).astype(np.int64)[:, None] + NEAREST_BIASES
    lower, upper = channels.interval(factor, bias)
    width = np.where(upper > lower, (upper - lower) / np.maximum(upper + lower, 1e-300), 0)
    best = width.argmax(1)
    each = np.arange(len(best))
    bias, width = bias[each, best], width[each, best]
    multiplier = ((lower + upper)[each, best] / 2).astype(np.float32)
    better = fits & (width > NARROWEST) & (width > found.width[channels.rows])
    better &= channels.equal(factor, bias, multiplier, target)
    rows = channels.rows[better]
    found.factor[rows] = (factor * channels.sign)[better]
    found.bias[rows], found.multiplier[rows] = bias[better], multiplier[better]
    found.width[rows] = width[better]
