"""Schedule of a training: the public settings class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rfquant_jax.errors import ArgumentError
from rfquant_jax.runtime.setting import (
    POSITIVE,
    SEED,
    at_least,
    check_settings,
    documented,
    setting,
)
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import SchedulerConfig
from rfquant_jax.train.step_config import StepConfig


@documented
@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; the defaults are those of RFQuant for ResNet18 on ImageNet.

    Raises:
      ArgumentError: a value is out of range.

    Example:
      >>> config = rfq.TrainConfig(epochs=2, warmup_epochs=0, batch_size=32, scheduler=None)
      >>> config.lr
      0.04
      >>> rfq.TrainConfig.full_precision(epochs=10).lr
      0.1
    """

    epochs: int = setting(150, "number of passes over the training images")
    batch_size: int = setting(512, "images per update, over all devices", at_least(1))
    lr: float = setting(0.04, "peak learning rate of SGD", POSITIVE)
    min_lr: float = setting(
        1e-5, "learning rate at the start of the warm-up and at the end of the cosine"
    )
    warmup_epochs: int = setting(5, "epochs of linear warm-up")
    step_size_lr: float = setting(1e-5, "initial learning rate of step sizes (Adam); cosine to 0")
    damping: float = setting(0.1, "final weight of oscillation damping, eta; 0: off")
    damping_start_epoch: int = setting(40, "damping rises on a cosine after this epoch")
    scheduler: SchedulerConfig | None = setting(
        SchedulerConfig(), "the bit-width scheduler; None: all bit-widths are always sampled"
    )
    step: StepConfig = setting(StepConfig(), "constants of the step")
    eval_every: int = setting(5, "epochs between evaluations and checkpoints; 0: only at the end")
    log_every: int = setting(50, "steps between records of metrics", at_least(1))
    max_bad_steps: int = setting(
        10,
        "number of consecutive steps with non-finite values that ends the training with an error",
        at_least(1),
    )
    seed: int = setting(
        0, "seed of data order, augmentation, sampled configurations and dropout", SEED
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if 0 < self.epochs <= self.warmup_epochs:  # without epochs there is no warm-up
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
            scheduler=self.scheduler,
            split_candidates=bool(self.scheduler and self.scheduler.split_candidates),
            max_bad_steps=self.max_bad_steps,
        )
