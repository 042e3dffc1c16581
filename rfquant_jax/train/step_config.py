"""Constants of a coupled training step, as users give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.sampling import Sampling
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.passes import LossWeights
from rfquant_jax.train.step import StepSettings, default_strategy

# rule -> (its test, the fields that it holds for)
Ranges = Mapping[str, tuple[Callable[[Any], bool], tuple[str, ...]]]
_RANGES: Ranges = {
    "must be at least 1": (lambda v: v >= 1, ("accumulate",)),
    "must not be negative": (
        lambda v: v >= 0,
        ("random_passes", "idm", "wd_region", "weight_decay"),
    ),
    "must be positive": (lambda v: v > 0, ("clip", "level_spread", "adam_epsilon")),
    "must lie between 0 and 1": (lambda v: 0 <= v <= 1, ("distillation", "smallest_pass")),
    "must be at least 0 and below 1": (
        lambda v: 0 <= v < 1,
        ("momentum", "adam_b1", "adam_b2", "ema_decay", "label_smoothing"),
    ),
    "must be auto, loop, unroll or scan": (
        lambda v: v in ("auto", "loop", "unroll", "scan"),
        ("strategy",),
    ),
    "must be independent or levels": (lambda v: v in ("independent", "levels"), ("sampling",)),
}


@dataclass(frozen=True)
class StepConfig:
    """Constants of a coupled step; the defaults are those of RFQuant (CVPR 2024) for ResNet18.

    Attributes:
      random_passes: K, sampled configurations per step beside the largest one.
      accumulate: micro-batches that a step's batch is cut into.
      strategy: how passes are compiled: "loop" (a host loop over one program), "unroll" or "scan"
        (one program); "auto": loop on processors, scan elsewhere.
      sampling: "independent" draws each bit-width evenly; "levels" draws one level for all layers
        of a pass.
      level_spread: of "levels": standard deviation of the layers' bits around the level.
      smallest_pass: probability that a step has a pass at the smallest bit-widths.
      label_smoothing: share of the target spread over all classes.
      distillation: share of the loss that distillation from the max pass takes from cross-entropy.
      idm: weight of information distortion mitigation; 0: off, which saves the features' memory.
      wd_region: weight decay inside the 2-bit clipping range.
      clip: largest size of a gradient element.
      momentum: Nesterov momentum of SGD, for all parameters but step sizes.
      weight_decay: L2, on convolution kernels.
      adam_b1, adam_b2, adam_epsilon: of Adam, for step sizes.
      ema_decay: of the average of parameters and statistics, per step.

    Raises:
      ArgumentError: a value is out of range.

    Example:
      >>> config = rfq.StepConfig(random_passes=2, ema_decay=0.98)
      >>> config.distillation
      0.5
    """

    random_passes: int = 3
    accumulate: int = 1
    strategy: Literal["auto", "loop", "unroll", "scan"] = "auto"
    sampling: Literal["independent", "levels"] = "independent"
    level_spread: float = 0.8
    smallest_pass: float = 0.0
    label_smoothing: float = 0.0
    distillation: float = 0.5
    idm: float = 0.01
    wd_region: float = 0.0
    clip: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 2.5e-5
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_epsilon: float = 1e-8
    ema_decay: float = 0.9997

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def settings(self, candidates: tuple[int, ...]) -> StepSettings:
        """The same for the compiled step of a network with these candidates."""
        strategy = self.strategy
        return StepSettings(
            candidates=candidates,
            random_passes=self.random_passes,
            strategy=default_strategy(jax.default_backend()) if strategy == "auto" else strategy,
            ema_decay=self.ema_decay,
            loss=LossWeights(
                label_smoothing=self.label_smoothing,
                distillation=self.distillation,
                idm=self.idm,
                region=self.wd_region - self.weight_decay,
            ),
            optimizer=OptimizerSettings(
                clip=self.clip,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                adam_b1=self.adam_b1,
                adam_b2=self.adam_b2,
                adam_epsilon=self.adam_epsilon,
            ),
            sampling=Sampling(self.sampling, self.level_spread, self.smallest_pass),
        )


def check_ranges(config: object, ranges: Ranges) -> None:
    """Raises an ArgumentError for the first field of a config that breaks its rule."""
    for rule, (holds, names) in ranges.items():
        for name in names:
            if not holds(getattr(config, name)):
                raise ArgumentError(name, getattr(config, name), rule)
