"""The bit-width scheduler: freezes the smallest bit-width of the most unstable layers.

`SchedulerConfig` decides when it fires and how many layers it freezes, `instability` ranks the
layers, and `freeze` returns the new masks. The result depends on weights, step sizes, masks and
epoch only.

Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), the dynamic bit-width schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.errors import ArgumentError
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant import lsq
from rfquant_jax.quant.layers import QuantizedLayer, searched_layers
from rfquant_jax.quant.space import WEIGHTS, Space
from rfquant_jax.runtime.setting import (
    FRACTION,
    INSIDE,
    at_least,
    check_settings,
    documented,
    setting,
)


@documented
@dataclass(frozen=True)
class SchedulerConfig:
    """When the scheduler freezes the smallest bit-width of unstable layers, and in how many.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), the dynamic bit-width schedule.
    `release_from` is an addition of this project.
    """

    start_epoch: int = setting(
        5, "the scheduler fires only in later epochs; epochs are counted from 0"
    )
    period: int = setting(2, "epochs between firings", at_least(1))
    late_period: int = setting(
        15, "epochs between firings after the fraction `late_from` of all epochs", at_least(1)
    )
    late_from: float = setting(
        0.72, "fraction of all epochs after which `late_period` applies", FRACTION
    )
    ratio_min: float = setting(0.2, "fraction of the layers that are frozen at the end", FRACTION)
    ratio_amplitude: float = setting(
        0.15, "the fraction starts at `ratio_min + 2 * ratio_amplitude` and falls on a cosine"
    )
    release_from: float = setting(
        1.0, "fraction of all epochs after which nothing is frozen; 1: never", FRACTION
    )
    boundary: float = setting(
        0.25,
        "width of the unstable zone at a rounding boundary, as a fraction of half a bin",
        INSIDE,
    )
    split_candidates: bool = setting(
        False,
        "whether only weight bit-widths are frozen; False: activation bit-widths as well",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        share = self.ratio_min + 2 * self.ratio_amplitude
        if share > 1:
            rule = (
                f"with `ratio_min` it freezes {share:.3g} of the layers at first; at most 1 is "
                "possible"
            )
            raise ArgumentError("ratio_amplitude", self.ratio_amplitude, rule)

    def has_released(self, epoch: int, epochs: int) -> bool:
        """Whether all frozen bit-widths are released in this epoch."""
        # The tolerance keeps a product such as 0.55 * 40 = 22.000...04 from shifting by an epoch.
        return epoch >= self.release_from * epochs - 1e-9

    def fires(self, epoch: int, epochs: int) -> bool:
        """Whether the scheduler fires before the first step of this epoch."""
        if self.has_released(epoch, epochs):
            return False
        period = self.period if epoch < self.late_from * epochs else self.late_period
        return epoch > self.start_epoch and (epoch + 1) % period == 0

    def ratio(self, epoch: int, epochs: int) -> float:
        """Fraction of the layers to freeze."""
        progress = ((epoch - self.start_epoch) // self.period) / max(epochs // self.period, 1)
        return self.ratio_min + self.ratio_amplitude * (1 + math.cos(math.pi * progress))


def unstable_share(
    kernel: jax.Array, step: jax.Array, bits: jax.Array | int, boundary: float
) -> jax.Array:
    """Share of the weights near a rounding boundary, float32[].

    A weight is near a boundary if `|v - round(v)| > 0.5 * (1 - boundary)`, where `v = w / s` is
    clipped to the quantizer's range, so that only the inner half of the outermost bins counts.
    """
    v = jnp.clip(kernel / step, *lsq.bounds(bits, signed=True))
    share = jnp.mean(jnp.abs(v - jnp.round(v)) > 0.5 * (1 - boundary))
    return jnp.where(bits < lsq.FULL_PRECISION, share, 0.0)


def boundary_shares(
    network: nnx.Module, boundary: float, candidates: tuple[int, ...] = ()
) -> jax.Array:
    """`unstable_share` of every searched layer at every bit-width, float32[L, |B|].

    Args:
      network: a coupled network.
      boundary: p, width of the unstable zone as a fraction of half a bin.
      candidates: B; empty: the candidates of weights. Shares at other bit-widths are 0.
    """

    def share(layer: QuantizedLayer, bits: int) -> jax.Array:
        quantizer = layer.weight_quantizer
        if bits not in quantizer.candidates:
            return jnp.zeros(())
        step = quantizer.step[...][quantizer.candidates.index(bits)]
        return unstable_share(layer.kernel[...], step, bits, boundary)

    layers = searched_layers(network)
    candidates = candidates or layers[0].weight_quantizer.candidates
    return jnp.stack([jnp.stack([share(layer, bits) for bits in candidates]) for layer in layers])


def instability(
    shares: jax.Array, weight_mask: jax.Array, candidates: tuple[int, ...]
) -> jax.Array:
    """M_l of every searched layer, float32[L]: the mean of share / bits over its allowed bits.

    Args:
      shares: float32[L, |B|], from `boundary_shares`.
      weight_mask: bool[L, |B|], traced.
    """
    terms = shares / jnp.asarray(candidates, shares.dtype)
    return jnp.sum(jnp.where(weight_mask, terms, 0.0), axis=1) / jnp.sum(weight_mask, axis=1)


def fire(
    metric: np.ndarray, masks: np.ndarray, space: Space, ratio: float, *, split_candidates: bool
) -> tuple[np.ndarray, list[dict]]:
    """The masks after a firing, see `freeze`, and the changes of the weights' mask.

    Args:
      masks: those before it, bool[2, L, |B|].
      ratio: 0 releases all bit-widths.
    """
    after = freeze(metric, space, ratio, split_candidates=split_candidates)
    return after, changes(masks[WEIGHTS], after[WEIGHTS], space, metric)


def freeze(metric: np.ndarray, space: Space, ratio: float, *, split_candidates: bool) -> np.ndarray:
    """Candidate masks after a firing: the most unstable layers lose their smallest bit-width.

    All other layers get their full set of candidates. The last remaining bit-width of a layer is
    never frozen. Ties go to the earlier layer.

    Args:
      metric: float[L].
      ratio: floor(ratio * L) layers are frozen.
      split_candidates: if False, the bit-width is frozen for activations as well, where it is a
        candidate of theirs and not the last one.

    Returns:
      masks of weights and activations, bool[2, L, |B|].
    """
    # The tolerance keeps a product such as 0.35 * 20 = 6.999... from losing a layer to rounding.
    count = math.floor(ratio * len(space) + 1e-9)
    weight_mask, activation_mask = space.full_masks
    for index in np.argsort(-np.asarray(metric), kind="stable")[:count]:
        allowed = np.flatnonzero(weight_mask[index])
        if len(allowed) > 1:
            weight_mask[index, allowed[-1]] = False
            if not split_candidates and activation_mask[index].sum() > 1:
                activation_mask[index, allowed[-1]] = False
    return np.stack([weight_mask, activation_mask])


def changes(
    before: np.ndarray, after: np.ndarray, space: Space, metric: Sequence[float]
) -> list[dict]:
    """The changes of a firing: which layer lost or regained which bit-width."""
    history = []
    for index, slot in zip(*np.nonzero(before != after), strict=True):
        history.append(
            {
                "layer": space.names[index],
                "bits": int(space.candidates[slot]),
                "change": "frozen" if before[index, slot] else "released",
                "metric": float(metric[index]),
            }
        )
    return history


class InstabilityMeter:
    """The jit-compiled instability metric of a network.

    Args:
      functional: a coupled network.
      boundary: see `boundary_shares`.
      candidates: B, the bit-widths of masks and shares; empty: the candidates of weights.
    """

    def __init__(
        self, functional: FunctionalNetwork, boundary: float, candidates: tuple[int, ...] = ()
    ):
        self.traces = 0

        def measure(params: Arrays, stats: Arrays, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            self.traces += 1
            network = functional.merge(params, stats)
            bits = candidates or searched_layers(network)[0].weight_quantizer.candidates
            shares = boundary_shares(network, boundary, bits)
            return instability(shares, mask, bits), shares

        self._measure = jax.jit(measure)
        self._stats = functional.stats

    def __call__(self, params: Arrays, weight_mask: np.ndarray) -> np.ndarray:
        """M_l, float32[L]."""
        return np.asarray(self._measure(params, self._stats, weight_mask)[0])

    def shares(self, params: Arrays, weight_mask: np.ndarray) -> np.ndarray:
        """Shares of the weights near a boundary at each bit-width, float32[L, |B|].

        Args:
          weight_mask: ignored; an argument so that one compiled function serves both methods.
        """
        return np.asarray(self._measure(params, self._stats, weight_mask)[1])
