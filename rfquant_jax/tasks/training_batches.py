"""The batches of the training tasks, and whether a training is finished."""

from __future__ import annotations

from rfquant_jax.checkpoint.checkpoints import Checkpoints
from rfquant_jax.data.loader import Pipeline, TrainingBatches
from rfquant_jax.data.sources import Source
from rfquant_jax.errors import CheckpointError, ConfigError
from rfquant_jax.train.plan import Plan

MOST_INITIAL = 0.02  # share of the initial weights in the EMA, above which there is a warning


def training_batches(
    images: Source, pipeline: Pipeline, batch_size: int, devices: int, plan: Plan
) -> TrainingBatches:
    """The batches of a training task.

    Args:
      images: the training images.
      batch_size: images of one update, over all devices.
      devices: number of devices.
      plan: names the task and its micro-batches.

    Raises:
      ConfigError: a batch is larger than the training part or not divisible.
    """
    field, size, parts = f"{plan.task}.batch_size", batch_size, devices * plan.accumulate
    if size % parts:
        lower, upper = size // parts * parts, -(-size // parts) * parts
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        micro = f" in {plan.accumulate} micro-batches each" if plan.accumulate > 1 else ""
        rule = f"cannot be divided evenly over {_counted(devices)}{micro}; {nearest} can"
        raise ConfigError(field, size, rule)
    if size > len(images):
        raise ConfigError(field, size, f"there are only {len(images)} training images")
    return pipeline.training(images, size, seed=plan.seed)


def _counted(devices: int) -> str:
    return f"{devices} device{'s' * (devices > 1)}"


def finished(batches: TrainingBatches, checkpoints: Checkpoints) -> bool:
    """Whether the newest checkpoint is the last of its training.

    Raises:
      CheckpointError: it was trained with another batch size.
    """
    step = checkpoints.latest
    if step is None:
        return False
    about = checkpoints.about(step)
    if step == about["total_steps"]:
        return True
    # Another batch size would change epochs, schedules and data.
    if about["images_per_step"] != batches.batch_size:
        raise CheckpointError(
            f"checkpoint {checkpoints.path(step)} was trained with {about['images_per_step']} "
            f"images a step, and batch_size is now {batches.batch_size}"
        )
    return False


def averaging(task: str, steps: int, decay: float) -> list[str]:
    """Log lines about the EMA of a training: how far it looks back; a warning if that is too far.

    Args:
      steps: updates of the whole training.
      decay: decay of the EMA per update.
    """
    kept = decay**steps  # the share of the initial weights in the result
    lines = [f"{task}: {steps} steps; the EMA looks back over about {1 / (1 - decay):.0f} of them"]
    if steps and kept > MOST_INITIAL:
        lines.append(
            f"warning: {100 * kept:.0f} % of the EMA, which is what gets evaluated, will be the "
            f"initial weights: for {steps} steps, set config.{task}.ema_decay to at most "
            f"{0.001 ** (1 / steps):.3g}"
        )
    return lines
