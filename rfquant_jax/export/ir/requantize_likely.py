"""Requantization constants that give the right code for all likely accumulators of a channel.

Some channels have no constants that give the right code for every reachable accumulator, see
`requantize`. But accumulators occur within a few standard deviations of their mean, while the
reachable ones are bounded by the sum of all weights. Here, constants are chosen that are wrong with
the smallest chance, and this chance is reported.

A wrong code differs by one, and only for values within LARGEST_OFF_TIE steps of a rounding tie.
Accumulators with a smaller chance than 1e-15, as of images unlike the calibration data, are not
considered, see `likelihood`.
"""

from __future__ import annotations

import numpy as np

from rfquant_jax.export.ir.boundaries import Boundaries, Target
from rfquant_jax.export.ir.likelihood import Likely
from rfquant_jax.export.ir.model import INT32_LIMIT, LayerData
from rfquant_jax.export.ir.requantize import (
    NARROWEST,
    NEAREST_BIASES,
    Channels,
    Requantization,
    largest_factors,
)

MOST_FACTORS = 8  # values of k to try for each channel
NEGLIGIBLE = 1e-7  # a chance of wrong codes for which no other k is tried
LARGEST_OFF_TIE = 0.009  # in steps; export's verification accepts 0.01
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
            wanted = (found.wrong[part] > NEGLIGIBLE) & (
                2 * (largest[part] - below) > largest[part]
            )
            if len(part := part[wanted]):
                channels, factor = Channels(data, boundaries, target, part), largest[part] - below
                _try(found, data, target, channels, found.gain * factor)


def _try(
    found: Requantization, data: LayerData, target: Target, channels: Channels, factor: np.ndarray
) -> None:
    """Stores the constants with these k that are wrong with a smaller chance than earlier ones."""
    channels.keep(Likely.of(data, channels, target).passed)
    likely = Likely.of(data, channels, target)
    nearest = np.rint(channels.exact_bias * factor)
    fits = np.abs(nearest) + factor * channels.magnitude.astype(np.float64) < INT32_LIMIT - 16
    bias = np.where(fits, nearest, 0).astype(np.int64)[:, None] + NEAREST_BIASES
    multiplier = _best(channels, likely, factor, bias)
    wrong = np.where(fits[:, None], _wrong(channels, likely, factor, bias, multiplier), np.inf)
    best = wrong.argmin(1)
    each = np.arange(len(best))
    bias, multiplier, wrong = (values[each, best] for values in (bias, multiplier, wrong))
    better = wrong < found.wrong[channels.rows]
    rows = channels.rows[better]
    found.factor[rows] = (factor * channels.sign)[better]
    found.bias[rows], found.multiplier[rows] = bias[better], multiplier[better]
    found.wrong[rows] = wrong[better]


def _best(channels: Channels, likely: Likely, factor: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """For each B, the M that violates the bounds with the smallest chance, float32[n, biases].

    Over all M, every lower bound is violated up to its value and every upper bound from its value
    on. So the sum only changes at bounds, and is constant between neighbours.
    """
    lower, upper = channels.bounds(factor, bias)
    above, below, positive = likely.above, likely.below, channels.threshold > 0
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
    middle = np.take_along_axis(left, best, -1) + np.take_along_axis(right, best, -1)
    # Where no interval is wide enough, 1 is as wrong as any other number.
    usable = np.isfinite(middle) & (middle > 0)
    return np.where(usable, middle / 2, 1)[..., 0].astype(np.float32)


def _wrong(channels: Channels, likely: Likely, factor, bias, multiplier) -> np.ndarray:
    """The chance of a wrong code, float64[n, biases]; infinite if one is too far off.

    Kernels round the product in float32, so accumulators within NARROWEST of a tie count as wrong.
    """
    factor, bias = factor[:, None, None], bias[..., None]
    multiplier = multiplier.astype(np.float64)[..., None]
    tie = (channels.threshold / multiplier - bias) / factor  # where the code changes
    room = NARROWEST * np.abs(channels.threshold) / (multiplier * factor)
    above, below, exact = (v[:, None] for v in (likely.above, likely.below, likely.tie))
    first = channels.first[:, None]
    # first, first + 1, ... must lie above the tie, and first - 1, first - 2, ... below.
    late = np.maximum(np.floor(tie + room) - first + 1, 0)
    early = np.maximum(first - np.ceil(tie - room), 0)
    off_tie = np.maximum(
        np.where(late * above > 0, first + late - 1 - exact, 0),
        np.where(early * below > 0, exact - (first - early), 0),
    )
    wrong = (late * above + early * below).sum(-1)
    far = off_tie.max(-1, initial=0) * likely.slope > LARGEST_OFF_TIE
    return np.where(far, np.inf, wrong)
