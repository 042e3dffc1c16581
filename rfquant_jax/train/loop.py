"""The training loop of both full-precision and coupled training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np

from rfquant_jax.checkpoint.checkpoints import Checkpoints
from rfquant_jax.data.loader import TrainingBatches, prefetch
from rfquant_jax.errors import Interrupted
from rfquant_jax.nn.functional import Arrays
from rfquant_jax.quant.space import Space
from rfquant_jax.report.log import Progress, RunLog
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.signals import StopSignal
from rfquant_jax.train import interference, schedules
from rfquant_jax.train.interference import BitCounts, pass_kinds, summarize
from rfquant_jax.train.nonfinite_guard import NonFiniteGuard
from rfquant_jax.train.scheduler import InstabilityMeter, Timing, changes, freeze
from rfquant_jax.train.state import Masks, Rates, Taken, TrainState
from rfquant_jax.train.step import TrainStep

# score(ema parameters, ema statistics) -> held-out accuracies by name; the mean ranks checkpoints
Score = Callable[[Arrays, Arrays], dict[str, float]]
# teacher(images sharded over devices) -> logits
Teacher = Callable[[jax.Array], jax.Array]


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
    scheduler: Timing | None = None
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

    def rates(self, step: int, per_epoch: int) -> Rates:
        """Learning rates, which change once an epoch, and damping, which changes at every update.

        Args:
          step: number of updates so far.
          per_epoch: updates per epoch.
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
        return Rates(np.float32(learning), np.float32(step_size), np.float32(damping))


class SaveClock:
    """Timer for periodic checkpoints.

    Args:
      minutes: interval between checkpoints; 0 disables them.
    """

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Restarts the interval after a checkpoint."""
        self._since = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the interval is over."""
        return 0 < self._seconds <= time.monotonic() - self._since


@dataclass
class Position:
    """Progress of training: the part of a checkpoint that is not arrays."""

    step: int
    masks: Masks
    history: list[dict] = field(default_factory=list)


class TrainingLoop:
    """Trains one network and keeps its checkpoints.

    Args:
      space: the configurations; empty for a full-precision network.
      meter: measures instability for the scheduler; None if it never fires.
      score: evaluates the EMA on held-out images; None: nothing is evaluated.
      teacher: an external teacher.
      about: JSON content stored in every checkpoint.
    """

    def __init__(
        self,
        plan: Plan,
        step: TrainStep,
        batches: TrainingBatches,
        space: Space,
        *,
        checkpoints: Checkpoints,
        log: RunLog,
        stop: StopSignal,
        score: Score | None,
        meter: InstabilityMeter | None = None,
        teacher: Teacher | None = None,
        about: dict | None = None,
    ):
        self._plan, self._step, self._batches, self._space = plan, step, batches, space
        self._checkpoints, self._log, self._stop = checkpoints, log, stop
        self._score, self._meter, self._teacher = score, meter, teacher
        self._about = about or {}
        self._guard = NonFiniteGuard(
            plan.task, plan.max_bad_steps, space, log, step.diagnose, plan.remedy
        )
        self._sampled = BitCounts(space)
        self._key = jax.random.key(plan.seed)
        self._per_epoch = plan.epoch_length(batches)
        # All processes of a run must stop and save after the same step, so they vote; the timer of
        # process 0 decides about periodic checkpoints.
        self._vote, self._saved = devices.Vote(step.mesh), 0
        self._clock = SaveClock(plan.save_every_minutes if devices.is_first_process() else 0.0)

    @property
    def total_steps(self) -> int:
        """Total number of updates."""
        return self._plan.epochs * self._per_epoch

    def run(self, start: Arrays, stats: Arrays | None = None) -> TrainState:
        """Trains to the end, from the newest checkpoint or, without one, from these parameters.

        Args:
          stats: BatchNorm statistics to start from; None: those that the network came with.

        Returns:
          the last state.

        Raises:
          Interrupted: a signal was received; the state is saved.
          RunFailure: `max_bad_steps` updates in a row were not finite.
        """
        state, position = self._begin(start, stats)
        if self.total_steps == 0:
            self._evaluate("untrained", state, position)
        if self._meter is not None:
            self._log.dashboard(interference.charts(self._plan.task, self._space))
        stream = prefetch(map(self._on_devices, self._batches.starting_at(position.step)))
        with self._log.progress(self._plan.task, self.total_steps, position.step) as progress:
            while position.step < self.total_steps:
                epoch, within = divmod(position.step, self._per_epoch)
                # Before the epoch's first step, so that a run resumed inside it keeps its masks.
                if within == 0:
                    self._schedule(epoch, state, position)
                state, taken = self._one_step(state, next(stream), position)
                position.step += 1
                progress.advance()
                self._guard.add(taken, state)
                self._sampled.add(taken.report.configurations)
                self._report(epoch, position, state, taken, progress)
                # Before the stop is handled, so that the end of an epoch is saved with its score.
                if within == self._per_epoch - 1:
                    self._end_epoch(epoch, state, position)
                stop, due = self._vote(self._stop.requested, self._clock.due)
                # Votes arrive with a delay: a vote from before the last save is already satisfied.
                due = due and position.step > self._saved + self._vote.delay
                if stop or due or self._plan.is_save_due(position.step):
                    self._save(state, position, score=None)
                if stop:
                    self._checkpoints.wait()
                    raise Interrupted
        self._checkpoints.wait()
        return state

    def _begin(self, start: Arrays, stats: Arrays | None) -> tuple[TrainState, Position]:
        state = self._step.init(start) if stats is None else self._step.init(start, stats)
        position = Position(0, Masks(self._space.full_mask, self._space.full_mask))
        latest = self._checkpoints.latest
        if latest is not None:
            state, position = self._restore(latest, state)
            self._log.info(f"{self._plan.task}: resumes after step {position.step}")
        self._log.rewind(self._plan.task, position.step)
        return state, position

    def _schedule(self, epoch: int, state: TrainState, position: Position) -> None:
        timing, epochs, space = self._plan.scheduler, self._plan.epochs, self._space
        if timing is None:
            return
        ratio, masks = 0.0, Masks(space.full_mask, space.full_mask)
        frozen_now = any(
            np.any(now != full) for now, full in zip(position.masks, masks, strict=True)
        )
        releases = timing.has_released(epoch, epochs) and frozen_now
        if not releases and not timing.fires(epoch, epochs):
            return
        metric = self._meter(state.params, position.masks.weights)
        if not releases:
            ratio = timing.ratio(epoch, epochs)
            split = self._plan.split_candidates
            masks = Masks(*freeze(metric, space, ratio, split_candidates=split))
        changed = changes(position.masks.weights, masks.weights, space, metric)
        record = {"event": "scheduler", "epoch": epoch, "ratio": ratio, "changes": changed}
        position.masks = masks
        position.history.append(record)
        self._log.event(self._plan.task, position.step + 1, record)
        frozen = int(np.sum(masks.weights != space.full_mask))
        after = " for the rest of training" if releases else ""
        self._log.info(f"scheduler: epoch {epoch}: {frozen} of {len(space)} layers frozen{after}")

    def _on_devices(self, batch: Arrays) -> list[Arrays]:
        """Starts copying the micro-batches of a batch to the devices."""
        parts = split_batch(batch, self._plan.accumulate)
        return [devices.split(part, self._step.mesh) for part in parts]

    def _one_step(
        self, state: TrainState, parts: list[Arrays], position: Position
    ) -> tuple[TrainState, Taken]:
        teachers = None
        if self._teacher is not None:
            teachers = [self._teacher(part["image"]) for part in parts]
        key = jax.random.fold_in(self._key, position.step)
        rates = self._plan.rates(position.step, self._per_epoch)
        given = parts, position.masks, rates, key, teachers
        state, metrics, report = self._step(state, *given)
        return state, Taken(position.step + 1, *given, metrics, report)

    def _report(
        self, epoch: int, position: Position, state: TrainState, taken: Taken, progress: Progress
    ) -> None:
        last = position.step == self.total_steps
        if position.step % self._plan.log_every and not last:
            return
        configurations = np.asarray(taken.report.configurations)
        kinds = pass_kinds(configurations, taken.masks, self._space.candidates)
        values = summarize(taken.metrics, kinds)
        self._sampled.drain()
        self._guard.drain(state)  # no extra wait: the metrics were fetched already
        values |= self._guard.counts()
        values |= {f"rate/{k}": float(v) for k, v in taken.rates._asdict().items()}
        self._log.metrics(self._plan.task, position.step, {"epoch": epoch, **values})
        progress.report(f"epoch {epoch}, loss {values['loss']:.4f}")

    def _end_epoch(self, epoch: int, state: TrainState, position: Position) -> None:
        done = epoch + 1
        if done % self._plan.eval_every and done != self._plan.epochs:
            return
        self._evaluate(f"epoch {epoch}", state, position)

    def _evaluate(self, when: str, state: TrainState, position: Position) -> None:
        """Evaluates the EMA and saves a checkpoint."""
        self._guard.drain(state)  # no evaluation if training has failed
        if self._score is None:
            self._report_interference(state, position)
            self._save(state, position, score=None)
            return
        scores = self._score(state.ema_params, state.ema_stats)
        mean = float(np.mean(list(scores.values())))
        values = {f"held_out/{name}": value for name, value in scores.items()}
        self._log.metrics(self._plan.task, position.step, values | {"held_out/mean": mean})
        shown = ", ".join(f"{name} {value:.2f} %" for name, value in scores.items())
        self._log.info(f"{self._plan.task}: {when}: held-out top-1 of the EMA: {shown}")
        self._report_interference(state, position)
        self._save(state, position, score=mean)

    def _report_interference(self, state: TrainState, position: Position) -> None:
        if self._meter is None or not position.step:
            return
        shares, counts = (
            self._meter.shares(state.params, position.masks.weights),
            self._sampled.take(),
        )
        record = interference.record(self._space, position.masks, counts, shares)
        self._log.event(self._plan.task, position.step, record)
        curves = interference.scalars(record)
        frozen = np.sum(position.masks.weights != self._space.full_mask)
        self._log.curves(self._plan.task, position.step, curves | {"frozen_layers": int(frozen)})

    def _save(self, state: TrainState, position: Position, score: float | None) -> None:
        self._guard.drain(state)
        about = self._about | {
            "images_per_step": self._batches.batch_size,
            "total_steps": self.total_steps,
            "masks": [mask.astype(int).tolist() for mask in position.masks],
            "watch": self._guard.state(),
            "sampled": self._sampled.state(),
            "history": list(position.history),  # written in the background while training continues
        }
        self._checkpoints.save(
            position.step,
            ema={"params": state.ema_params, "stats": state.ema_stats},
            state=_kept(state),
            about=about,
            score=score,
        )
        self._clock.restart()
        self._saved = position.step

    def _restore(self, step: int, fresh: TrainState) -> tuple[TrainState, Position]:
        about = self._checkpoints.about(step)
        ema = self._checkpoints.restore_ema(
            step, {"params": fresh.ema_params, "stats": fresh.ema_stats}
        )
        kept = self._checkpoints.restore_state(step, _kept(fresh))
        mesh = self._step.mesh
        state = TrainState(
            params=devices.replicate(kept["params"], mesh),
            stats=devices.per_device(kept["stats"], mesh),
            optimizer=devices.replicate(kept["optimizer"], mesh),
            ema_params=devices.replicate(ema["params"], mesh),
            ema_stats=devices.replicate(ema["stats"], mesh),
        )
        shape = self._space.full_mask.shape
        masks = Masks(*(np.asarray(mask, bool).reshape(shape) for mask in about["masks"]))
        self._guard.restore(about["watch"])
        if "sampled" in about:  # absent from checkpoints of earlier releases
            self._sampled.restore(about["sampled"])
        return state, Position(step, masks, about["history"])


def split_batch(batch: Arrays, parts: int) -> list[Arrays]:
    """Splits a batch into micro-batches of equal size."""
    size = len(batch["label"]) // parts
    return [
        {name: values[i * size : (i + 1) * size] for name, values in batch.items()}
        for i in range(parts)
    ]


def _kept(state: TrainState) -> dict:
    """The state as saved; one copy of the statistics, which are equal on all devices."""
    stats = devices.first_copy(state.stats)
    return {"params": state.params, "stats": stats, "optimizer": state.optimizer}
