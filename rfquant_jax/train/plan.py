"""The schedule of a training stage: rates of each update, evaluations, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfquant_jax.train import schedules
from rfquant_jax.train.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from rfquant_jax.data.loader import TrainingBatches  # grain takes seconds to import


@dataclass(frozen=True)
class Plan:
    """The schedule of a training stage; `TrainConfig` has units and meanings."""

    task: str
    epochs: int
    seed: int
    lr: float
    min_lr: float
    warmup_epochs: int
    eval_every: int
    log_every: int
    steps_per_epoch: int = 0
    accumulate: int = 1
    step_size_lr: float = 0.0
    damping: float = 0.0
    damping_start_epoch: int = 0
    scheduler: SchedulerConfig | None = None
    split_candidates: bool = False
    max_bad_steps: int = 10
    remedy: str = "lower the learning rate"  # suggested when the loss is not finite
    save_every_steps: int = 0
    save_every_minutes: float = 0.0

    def is_save_due(self, step: int) -> bool:
        """Whether `save_every_steps` asks for a checkpoint after this many updates."""
        return self.save_every_steps > 0 and step % self.save_every_steps == 0

    def epoch_length(self, batches: TrainingBatches) -> int:
        """Updates per epoch; all schedules count epochs."""
        return self.steps_per_epoch or batches.per_epoch

    def rates(self, step: int, per_epoch: int) -> dict[str, float]:
        """Learning rates, which change once an epoch, and damping, which changes at every update.

        Args:
          step: number of updates so far.
          per_epoch: updates per epoch.

        Returns:
          `lr`, `step_size_lr` and `damping` of `TrainStep.inputs`.
        """
        epoch = step // per_epoch
        learning = schedules.learning_rate(
            epoch,
            epochs=self.epochs,
            peak=self.lr,
            minimum=self.min_lr,
            warmup_epochs=self.warmup_epochs,
        )
        step_size = schedules.step_size_learning_rate(
            epoch, epochs=self.epochs, peak=self.step_size_lr
        )
        damping = schedules.damping(
            step / per_epoch,
            epochs=self.epochs,
            start_epoch=self.damping_start_epoch,
            peak=self.damping,
        )
        return {"lr": learning, "step_size_lr": step_size, "damping": damping}
