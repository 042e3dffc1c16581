"""Constants of a coupled training step: the public settings class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rfquant_jax.errors import ArgumentError
from rfquant_jax.quant.sampling import Sampling
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.step import StepSettings, default_strategy
from rfquant_jax.train.training_network import LossWeights

# rule -> (test, fields)
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
    "must be auto, loop or scan": (
        lambda v: v in ("auto", "loop", "scan"),
        ("strategy",),
    ),
    "must be independent or levels": (lambda v: v in ("independent", "levels"), ("sampling",)),
}


@dataclass(frozen=True)
class StepConfig:
    """Constants of a coupled step; the defaults are those of RFQuant for ResNet18 on ImageNet.

    Attributes:
      random_passes: K, number of random configurations per step, in addition to the largest.
      accumulate: number of micro-batches per update.
      strategy: how the passes are compiled. "loop": one program per pass in a host loop;
        "scan": one program for all passes; "auto": "loop" on CPU, "scan" elsewhere.
      sampling: how random configurations are drawn. "independent": every bit-width uniformly;
        "levels": bit-widths around one level for all layers of a pass.
      level_spread: standard deviation of the bits around the level, for "levels".
      smallest_pass: probability that one of the random passes runs the smallest bit-widths.
      label_smoothing: fraction of the target that is spread evenly over all classes.
      distillation: weight of distillation in the loss; cross-entropy has 1 - distillation.
      idm: weight of information distortion mitigation; 0: off, which saves the memory for features.
      wd_region: weight decay of weights inside the 2-bit clipping range, in layers that run at 2
        bits.
      clip: maximum magnitude of a gradient element.
      momentum: Nesterov momentum of SGD, for all parameters except step sizes.
      weight_decay: L2, on convolution kernels.
      adam_b1, adam_b2, adam_epsilon: constants of Adam, for step sizes.
      ema_decay: decay per step of the average of parameters, step sizes and statistics.

    Raises:
      ArgumentError: a value is out of range.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543). "levels" and `smallest_pass` are
    additions of this project, off by default.

    Example:
      >>> config = rfq.StepConfig(random_passes=2, ema_decay=0.98)
      >>> config.distillation
      0.5
    """

    random_passes: int = 3
    accumulate: int = 1
    strategy: Literal["auto", "loop", "scan"] = "auto"
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
        """These constants in the form that the compiled step takes."""
        strategy = self.strategy
        return StepSettings(
            candidates=candidates,
            random_passes=self.random_passes,
            strategy=default_strategy() if strategy == "auto" else strategy,
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
    """Raises an ArgumentError for the first field that breaks its rule."""
    for rule, (holds, names) in ranges.items():
        for name in names:
            if not holds(getattr(config, name)):
                raise ArgumentError(name, getattr(config, name), rule)
