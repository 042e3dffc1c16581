"""Requantization constants that are right for all likely accumulators of a channel.

Some channels have no constants that give the right code for every reachable accumulator, see
`requantize`. But accumulators occur within a few standard deviations of their mean, while the
reachable ones are bounded by the sum of all weights. Here, constants are chosen that are wrong with
the smallest chance, and this chance is reported.

A wrong code differs by one, and only for accumulators next to a code boundary.
"""

from __future__ import annotations

import math

import numpy as np

from rfquant_jax.export.ir.boundaries import Boundaries, Target
from rfquant_jax.export.ir.model import INT32_LIMIT, LayerData
from rfquant_jax.export.ir.requantize import (
    NARROWEST,
    NEAREST_BIASES,
    Channels,
    Requantization,
    largest_factors,
)

MOST_FACTORS = 8  # values of k to try for each channel
_MOST_AT_ONCE = 2**22  # array elements


def complete(
    found: Requantization, data: LayerData, target: Target, smallest_weight: int = -128
) -> None:
    """Fills in constants for the channels without a solution, if the outputs' spread is known.

    Args:
      found: the result of `solve` for the same layer; its `width` stays 0 for these channels, and
        `wrong` is the chance that a code differs.
    """
    rows = np.flatnonzero(~found.solved)
    if data.spread is None or not len(rows):
        return
    boundaries = Boundaries.of(data, target)
    largest = largest_factors(data, boundaries.sign, smallest_weight)
    size = max(_MOST_AT_ONCE // (2 * len(NEAREST_BIASES) * len(boundaries.codes)), 1)
    for start in range(0, len(rows), size):
        for below in range(MOST_FACTORS):
            part = rows[start : start + size]
            # A multiple of any smaller factor lies in the upper half.
            part = part[2 * (largest[part] - below) > largest[part]]
            channels = Channels(data, boundaries, target, part)
            factor = found.gain * (largest[part] - below)
            _try(found, channels, _chances(data, channels), factor)


def _chances(data: LayerData, channels: Channels) -> tuple[np.ndarray, np.ndarray]:
    """Chances of the accumulators above and below each boundary, float64[n, C].

    The larger of a normal and a Laplace distribution with the channel's mean and variance: outputs
    of trained networks have longer tails than a normal distribution.
    """
    mean, deviation = data.spread[:, channels.rows, None] / np.abs(data.scale[channels.rows, None])
    mean = mean - data.bias[channels.rows, None] / np.abs(data.scale[channels.rows, None])
    deviation = np.maximum(deviation, 1.0)

    def chance(accumulators: np.ndarray) -> np.ndarray:
        z = np.abs(accumulators - mean) / deviation
        normal = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        laplace = np.exp(-math.sqrt(2) * z) / math.sqrt(2)
        return np.maximum(normal, laplace) / deviation

    return (
        np.where(channels.above, chance(channels.first), 0),
        np.where(channels.below, chance(channels.first - 1), 0),
    )


def _try(
    found: Requantization,
    channels: Channels,
    chances: tuple[np.ndarray, np.ndarray],
    factor: np.ndarray,
) -> None:
    """Stores the constants with these k that are wrong with a smaller chance than earlier ones."""
    if not len(factor):
        return
    nearest = np.rint(channels.exact_bias * factor)
    fits = np.abs(nearest) + factor * channels.most.astype(np.float64) < INT32_LIMIT - 16
    bias = np.where(fits, nearest, 0).astype(np.int64)[:, None] + NEAREST_BIASES
    multiplier, chance = _best(channels, chances, factor, bias)
    best = chance.argmin(1)
    each = np.arange(len(best))
    bias, multiplier = bias[each, best], multiplier[each, best].astype(np.float32)
    wrong = _wrong(channels, chances, (factor, bias, multiplier))
    better = fits & np.isfinite(chance[each, best]) & (wrong < found.wrong[channels.rows])
    rows = channels.rows[better]
    found.factor[rows] = (factor * channels.sign)[better]
    found.bias[rows], found.multiplier[rows] = bias[better], multiplier[better]
    found.wrong[rows] = wrong[better]


def _best(channels: Channels, chances, factor: np.ndarray, bias: np.ndarray):
    """For each B, the M that violates the bounds with the smallest chance, and this chance.

    Over all M, every lower bound is violated up to its value and every upper bound from its value
    on. So the sum only changes at bounds, and is constant between neighbours.
    """
    lower, upper = channels.bounds(factor, bias)
    above, below = chances
    positive = channels.threshold > 0
    needs, allows = np.where(positive, above, below), np.where(positive, below, above)
    needs, allows = (np.broadcast_to(v[:, None], lower.shape) for v in (needs, allows))
    places = np.concatenate([lower, upper], axis=-1)
    order = places.argsort(-1)
    places = np.take_along_axis(places, order, -1)
    steps = np.take_along_axis(np.concatenate([-needs, allows], axis=-1), order, -1)
    chance = needs.sum(-1, keepdims=True) + steps.cumsum(-1)
    # Between places[i] and places[i + 1].
    left, right = places[..., :-1], places[..., 1:]
    right = np.where(np.isfinite(right), right, 3 * left)
    with np.errstate(invalid="ignore"):
        wide = np.isfinite(left) & (right - left > 2 * NARROWEST * right)
    chance = np.where(wide, np.maximum(chance[..., :-1], 0), np.inf)
    best = chance.argmin(-1)[..., None]
    middle = (np.take_along_axis(left, best, -1) + np.take_along_axis(right, best, -1)) / 2
    return middle[..., 0], np.take_along_axis(chance, best, -1)[..., 0]


def _wrong(channels: Channels, chances, constants) -> np.ndarray:
    """The chance of a wrong code, float64[n].

    Kernels round the product in float32, so accumulators within NARROWEST of a tie count as wrong.
    """
    factor, bias, multiplier = (values.astype(np.float64)[:, None] for values in constants)
    above, below = chances
    threshold = channels.threshold
    with np.errstate(all="ignore"):
        tie = (threshold / multiplier - bias) / factor  # the accumulator at which the code changes
    room = NARROWEST * np.abs(threshold) / (multiplier * factor)
    # Accumulators first - 1, first - 2, ... must lie below the tie, first, first + 1, ... above.
    late = np.maximum(np.floor(tie + room) - channels.first + 1, 0)
    early = np.maximum(channels.first - 1 - np.ceil(tie - room) + 1, 0)
    return (late * above + early * below).sum(1)
