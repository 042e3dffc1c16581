"""Schedule of a training and of the bit-width scheduler: the public settings classes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rfquant_jax.errors import ArgumentError
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import Timing
from rfquant_jax.train.step_config import Ranges, StepConfig, check_ranges

_RANGES: Ranges = {
    "must be at least 1": (lambda v: v >= 1, ("batch_size", "log_every", "max_bad_steps")),
    "must not be negative": (
        lambda v: v >= 0,
        ("epochs", "warmup_epochs", "min_lr", "step_size_lr", "damping", "eval_every"),
    ),
    "must be positive": (lambda v: v > 0, ("lr",)),
    "must lie between 0 and 2147483647": (lambda v: 0 <= v < 2**31, ("seed",)),
}


@dataclass(frozen=True)
class SchedulerConfig:
    """When the scheduler freezes the smallest bit-width of unstable layers, and in how many.

    Attributes:
      start_epoch: the scheduler fires only in later epochs; epochs are counted from 0.
      period: epochs between firings.
      late_period: epochs between firings after the fraction `late_from` of all epochs.
      late_from: fraction of all epochs.
      ratio_min: fraction of the layers that are frozen at the end.
      ratio_amplitude: the fraction starts at `ratio_min + 2 * ratio_amplitude` and falls on a
        cosine.
      release_from: fraction of all epochs after which nothing is frozen; 1: never.
      boundary: width of the unstable zone at a rounding boundary, as a fraction of half a bin.
      split_candidates: whether only weight bit-widths are frozen; False: activation bit-widths as
        well.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), the dynamic bit-width schedule.
    `release_from` is an addition of this project.
    """

    start_epoch: int = 5
    period: int = 2
    late_period: int = 15
    late_from: float = 0.72
    ratio_min: float = 0.2
    ratio_amplitude: float = 0.15
    release_from: float = 1.0
    boundary: float = 0.25
    split_candidates: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "must be at least 1": (lambda v: v >= 1, ("period", "late_period")),
                "must not be negative": (lambda v: v >= 0, ("start_epoch", "ratio_amplitude")),
                "must lie between 0 and 1": (
                    lambda v: 0 <= v <= 1,
                    ("late_from", "ratio_min", "release_from"),
                ),
                "must lie between 0 and 1, both excluded": (lambda v: 0 < v < 1, ("boundary",)),
            },
        )
        share = self.ratio_min + 2 * self.ratio_amplitude
        if share > 1:
            rule = (
                f"with `ratio_min`, {share:.3g} of the layers would be frozen at first; at most 1"
            )
            raise ArgumentError("ratio_amplitude", self.ratio_amplitude, rule)

    def timing(self) -> Timing:
        """These constants in the form that the training loop takes."""
        return Timing(
            start_epoch=self.start_epoch,
            period=self.period,
            late_period=self.late_period,
            late_from=self.late_from,
            ratio_min=self.ratio_min,
            ratio_amplitude=self.ratio_amplitude,
            release_from=self.release_from,
        )


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; the defaults are those of RFQuant for ResNet18 on ImageNet.

    Attributes:
      epochs: number of passes over the training images.
      batch_size: images per update, over all devices.
      lr: peak learning rate of SGD.
      min_lr: learning rate at the start of the warm-up and at the end of the cosine.
      warmup_epochs: epochs of linear warm-up.
      step_size_lr: initial learning rate of step sizes (Adam); cosine to 0.
      damping: final weight of oscillation damping, eta; 0: off.
      damping_start_epoch: damping rises on a cosine after this epoch.
      scheduler: the bit-width scheduler; None: all bit-widths are always sampled.
      step: constants of the step.
      eval_every: epochs between evaluations and checkpoints; 0: only at the end.
      log_every: steps between records of metrics.
      max_bad_steps: number of consecutive steps with non-finite values that ends the training with
        an error.
      seed: seed of data order, augmentation, sampled configurations and dropout.

    Raises:
      ArgumentError: a value is out of range.

    Example:
      >>> config = rfq.TrainConfig(epochs=2, warmup_epochs=0, batch_size=32, scheduler=None)
      >>> config.lr
      0.04
      >>> rfq.TrainConfig.full_precision(epochs=10).lr
      0.1
    """

    epochs: int = 150
    batch_size: int = 512
    lr: float = 0.04
    min_lr: float = 1e-5
    warmup_epochs: int = 5
    step_size_lr: float = 1e-5
    damping: float = 0.1
    damping_start_epoch: int = 40
    scheduler: SchedulerConfig | None = field(default_factory=SchedulerConfig)
    step: StepConfig = field(default_factory=StepConfig)
    eval_every: int = 5
    log_every: int = 50
    max_bad_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if 0 < self.epochs <= self.warmup_epochs:
            rule = f"must be below `epochs` {self.epochs}"
            raise ArgumentError("warmup_epochs", self.warmup_epochs, rule)
        if self.min_lr > self.lr:
            raise ArgumentError("min_lr", self.min_lr, f"must not be above `lr` {self.lr}")

    @classmethod
    def full_precision(cls, *, ema_decay: float = 0.9997, **changes: Any) -> TrainConfig:
        """Settings to train a plain network: one pass per step, this project's rates for ImageNet.

        Args:
          ema_decay: decay per step of the average of parameters and statistics.
          changes: values of other fields.
        """
        step = StepConfig(
            random_passes=0,
            strategy="loop",
            idm=0.0,
            wd_region=1e-4,
            weight_decay=1e-4,
            clip=float("inf"),
            ema_decay=ema_decay,
        )
        plain = cls(epochs=90, lr=0.1, scheduler=None, damping=0.0, step_size_lr=0.0, step=step)
        return replace(plain, **changes)

    def plan(self, task: str) -> Plan:
        """These settings in the form that the training loop takes.

        Args:
          task: name of the training in messages and of its checkpoint folder.
        """
        scheduler = self.scheduler
        return Plan(
            task=task,
            epochs=self.epochs,
            seed=self.seed,
            lr=self.lr,
            min_lr=self.min_lr,
            warmup_epochs=self.warmup_epochs,
            eval_every=self.eval_every or max(self.epochs, 1),
            log_every=self.log_every,
            accumulate=self.step.accumulate,
            step_size_lr=self.step_size_lr,
            damping=self.damping,
            damping_start_epoch=self.damping_start_epoch,
            scheduler=scheduler and scheduler.timing(),
            split_candidates=bool(scheduler and scheduler.split_candidates),
            max_bad_steps=self.max_bad_steps,
        )
