"""The accumulators at which the output codes of a layer change.

The integer runtime computes, in float32,

    code(acc) = round(clip((acc * scale + bias) / step, low, high))

Every operation in it is monotone, including rounding. So the first accumulator that reaches each
code describes the codes of a channel completely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rfquant_jax.export.ir.model import LayerData


@dataclass(frozen=True)
class Target:
    """The quantizer that reads a layer's output.

    Attributes:
      step: its step size.
      low, high: its smallest and largest code, narrowed by activations before the quantizer.
    """

    step: float
    low: int
    high: int


def reachable(data: LayerData) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of each channel's accumulators over all inputs, int64[O] each.

    Every range of input codes contains zero, so the bounds also hold with padding.
    """
    weights = data.kernel.astype(np.int64).reshape(len(data.kernel), -1)
    positive, negative = np.maximum(weights, 0).sum(1), np.minimum(weights, 0).sum(1)
    low, high = data.input_range
    return positive * low + negative * high, positive * high + negative * low


def runtime_codes(
    accumulators: np.ndarray, scale: np.ndarray, bias: np.ndarray, target: Target
) -> np.ndarray:
    """The codes that the integer runtime computes, int64.

    Args:
      accumulators: integers; they broadcast against `scale` and `bias`, float32.
    """
    value = accumulators.astype(np.float32) * scale + bias
    with np.errstate(over="ignore"):  # infinity is clipped like any large value
        value = value / np.float32(target.step)
    return np.rint(np.clip(value, target.low, target.high)).astype(np.int64)


@dataclass(frozen=True)
class Boundaries:
    """The code boundaries of each channel, over its accumulators times the sign of its scale.

    Attributes:
      sign: int64[O], -1 for negative scales. Codes are nondecreasing in `sign * acc`.
      least, most: int64[O], the reachable values of `sign * acc`.
      codes: int64[C], the codes low + 1 to high.
      first: int64[O, C], the smallest `sign * acc` with at least that code; most + 1 if none.
      least_code: int64[O], the code at `least`.
      constant: bool[O], whether this is the only reachable code.
    """

    sign: np.ndarray
    least: np.ndarray
    most: np.ndarray
    codes: np.ndarray
    first: np.ndarray
    least_code: np.ndarray
    constant: np.ndarray

    @classmethod
    def of(cls, data: LayerData, target: Target) -> Boundaries:
        """Finds the boundaries by bisection, for all channels and codes at once."""
        scale, bias = (v.astype(np.float32)[:, None] for v in (data.scale, data.bias))
        sign = np.where(scale < 0, -1, 1).astype(np.int64)
        low, high = reachable(data)
        backwards = sign[:, 0] < 0
        least, most = np.where(backwards, -high, low), np.where(backwards, -low, high)

        def code(signed: np.ndarray) -> np.ndarray:
            return runtime_codes(signed * sign, scale, bias, target)

        codes = np.arange(target.low + 1, target.high + 1)
        ends = code(np.stack([least, most], axis=1))
        return cls(
            sign=sign[:, 0],
            least=least,
            most=most,
            codes=codes,
            first=_first_with(code, codes, least[:, None], most[:, None]),
            least_code=ends[:, 0],
            constant=ends[:, 0] == ends[:, 1],
        )


def _first_with(
    code: Callable[[np.ndarray], np.ndarray],
    codes: np.ndarray,
    least: np.ndarray,
    most: np.ndarray,
) -> np.ndarray:
    shape = (len(least), len(codes))
    low, high = np.broadcast_to(least, shape), np.broadcast_to(most + 1, shape)
    while (low < high).any():
        middle = (low + high) // 2  # at most `most` where low < high
        reached = code(np.minimum(middle, most)) >= codes
        searching = low < high
        high = np.where(searching & reached, middle, high)
        low = np.where(searching & ~reached, middle + 1, low)
    return high
