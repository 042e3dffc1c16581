"""Constants of a coupled training step: the public settings class."""

from __future__ import annotations

from dataclasses import dataclass

from rfquant_jax.quant.sampling import Sampling
from rfquant_jax.runtime.setting import (
    BELOW_ONE,
    at_least,
    check_settings,
    documented,
    one_of,
    same,
    setting,
    taken_from,
)
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.step import STRATEGIES, StepSettings, default_strategy
from rfquant_jax.train.training_network import LossWeights

AUTO = "auto"


@documented
@dataclass(frozen=True)
class StepConfig:
    """Constants of a coupled step; the defaults are those of RFQuant for ResNet18 on ImageNet.

    Raises:
      ArgumentError: a value is out of range.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543). "levels" and `smallest_pass` are
    additions of this project, off by default.

    Example:
      >>> config = rfq.StepConfig(random_passes=2, ema_decay=0.98)
      >>> config.distillation
      0.5
    """

    random_passes: int = setting(
        3, "K, number of random configurations per step, in addition to the largest"
    )
    accumulate: int = setting(1, "number of micro-batches per update", at_least(1))
    strategy: str = setting(
        AUTO,
        'how the passes are compiled. "loop": one program per pass in a host loop; "scan": one '
        'program for all passes; "auto": "loop" on CPU, "scan" elsewhere',
        one_of((AUTO, *STRATEGIES)),
    )
    sampling: str = same(Sampling, "rule")
    level_spread: float = same(Sampling, "spread")
    smallest_pass: float = same(Sampling, "smallest_pass")
    label_smoothing: float = same(LossWeights, "label_smoothing")
    distillation: float = same(LossWeights, "distillation")
    idm: float = same(LossWeights, "idm")
    wd_region: float = setting(
        0.0, "weight decay of weights inside the 2-bit clipping range, in layers that run at 2 bits"
    )
    clip: float = same(OptimizerSettings, "clip")
    momentum: float = same(OptimizerSettings, "momentum")
    weight_decay: float = same(OptimizerSettings, "weight_decay")
    adam_b1: float = same(OptimizerSettings, "adam_b1")
    adam_b2: float = same(OptimizerSettings, "adam_b2")
    adam_epsilon: float = same(OptimizerSettings, "adam_epsilon")
    ema_decay: float = setting(
        0.9997,
        "decay per step of the average of parameters, step sizes and statistics",
        BELOW_ONE,
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def settings(self, candidates: tuple[int, ...]) -> StepSettings:
        """These constants in the form that the compiled step takes."""
        return StepSettings(
            candidates=candidates,
            random_passes=self.random_passes,
            strategy=default_strategy() if self.strategy == AUTO else self.strategy,
            ema_decay=self.ema_decay,
            loss=taken_from(LossWeights, self, region=self.wd_region - self.weight_decay),
            optimizer=taken_from(OptimizerSettings, self),
            sampling=Sampling(self.sampling, self.level_spread, self.smallest_pass),
        )
