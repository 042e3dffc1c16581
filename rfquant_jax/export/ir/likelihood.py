"""How likely the accumulators of a channel are, from the spread of its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.requantize import Channels

LEAST_CHANCE = 1e-15  # of accumulators that are taken into account


@dataclass(frozen=True)
class Likely:
    """How likely the accumulators next to each boundary are.

    Attributes:
      above, below: float64[n, C], chances of the accumulators next to each boundary; at least
        LEAST_CHANCE if any accumulator with the code on this side has that chance.
      tie: float64[n, C], where the boundary lies between them, in real numbers.
      slope: float64[n, 1], codes per accumulator.
    """

    above: np.ndarray
    below: np.ndarray
    tie: np.ndarray
    slope: np.ndarray

    @property
    def passed(self) -> np.ndarray:
        """Whether any channel's outputs come near a boundary, bool[C]."""
        return (self.above + self.below > 0).any(0)

    @classmethod
    def of(cls, data: LayerData, channels: Channels, target: Target) -> Likely:
        scale = np.abs(data.scale[channels.rows, None].astype(np.float64))
        bias = data.bias[channels.rows, None]
        mean, deviation = data.spread[:, channels.rows, None]
        mean, deviation = (mean - bias) / scale, np.maximum(deviation / scale, 1.0)
        mean = np.clip(mean, channels.least, channels.most)
        above, below = (_chance(channels.first - i, mean, deviation) for i in (0, 1))
        # A likely code needs both of its boundaries, even if accumulators near one are unlikely.
        code = np.where(_occurs(channels, mean, deviation), LEAST_CHANCE, 0)
        above, below = np.maximum(above, code[:, 1:]), np.maximum(below, code[:, :-1])
        return cls(
            above=np.where(channels.above, above, 0),
            below=np.where(channels.below, below, 0),
            tie=(channels.threshold * target.step - bias) / scale,
            slope=scale / target.step,
        )


def _occurs(channels: Channels, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Whether any accumulator with each code is likely, bool[n, C + 1]."""
    first = np.concatenate([channels.least, channels.first], axis=1)
    last = np.concatenate([channels.first - 1, channels.most], axis=1)
    nearest = np.clip(mean, first, np.maximum(first, last))
    return (first <= last) & (_chance(nearest, mean, deviation) > 0)


def _chance(accumulators: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The larger of a normal and a Laplace distribution with this mean and standard deviation.

    Outputs of trained networks have longer tails than a normal distribution.
    """
    z = np.abs(accumulators - mean) / deviation
    normal = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    laplace = np.exp(-math.sqrt(2) * z) / math.sqrt(2)
    found = np.maximum(normal, laplace) / deviation
    return np.where(found < LEAST_CHANCE, 0, found)
