"""The training loop of both full-precision and coupled training."""

from __future__ import annotations

from collections.abc import Callable

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
from rfquant_jax.train import interference, training_checkpoints
from rfquant_jax.train.diagnose import DispatchedStep
from rfquant_jax.train.interference import BitCounts, pass_kinds, summarize
from rfquant_jax.train.nonfinite_guard import NonFiniteGuard
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.save_clock import SaveClock
from rfquant_jax.train.scheduler import InstabilityMeter, fire
from rfquant_jax.train.state import TrainState
from rfquant_jax.train.step import TrainStep
from rfquant_jax.train.training_checkpoints import Position

# score(ema parameters, ema statistics) -> held-out accuracies by name; the mean ranks checkpoints
Score = Callable[[Arrays, Arrays], dict[str, float]]
# teacher(images sharded over devices) -> logits
Teacher = Callable[[jax.Array], jax.Array]


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
        self._full = space.full_masks
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
                state, step = self._one_step(state, next(stream), position)
                position.step += 1
                progress.advance()
                self._guard.add(step, state)
                self._sampled.add(step.inputs.configurations)
                self._report(epoch, position, state, step, progress)
                # Before the stop is handled, so that the end of an epoch is saved with its score.
                if within == self._per_epoch - 1:
                    self._end_epoch(epoch, state, position)
                self._save_or_stop(state, position)
        self._checkpoints.wait()
        return state

    def _begin(self, start: Arrays, stats: Arrays | None) -> tuple[TrainState, Position]:
        state = self._step.init(start) if stats is None else self._step.init(start, stats)
        position = Position(0, self._full)
        latest = self._checkpoints.latest
        if latest is not None:
            state, position = self._restore(latest, state)
            self._log.info(f"{self._plan.task}: resumes after step {position.step}")
        self._log.rewind(self._plan.task, position.step)
        return state, position

    def _schedule(self, epoch: int, state: TrainState, position: Position) -> None:
        """Lets the scheduler fire or release before an epoch, if it is due."""
        timing, epochs, space = self._plan.scheduler, self._plan.epochs, self._space
        releases = timing is not None and timing.has_released(epoch, epochs)
        releases = releases and bool(np.any(position.masks != self._full))
        if timing is None or not (releases or timing.fires(epoch, epochs)):
            return
        metric = self._meter(state.params, position.masks[0])
        ratio = 0.0 if releases else timing.ratio(epoch, epochs)
        split = self._plan.split_candidates
        position.masks, changed = fire(metric, position.masks, space, ratio, split_candidates=split)
        record = {"event": "scheduler", "epoch": epoch, "ratio": ratio, "changes": changed}
        position.history.append(record)
        self._log.event(self._plan.task, position.step + 1, record)
        after = " for the rest of training" if releases else ""
        frozen = self._frozen(position)
        self._log.info(f"scheduler: epoch {epoch}: {frozen} of {len(space)} layers frozen{after}")

    def _frozen(self, position: Position) -> int:
        """Number of layers whose smallest weight bit-width is frozen."""
        return int(np.sum(position.masks[0] != self._space.full_mask))

    def _on_devices(self, batch: Arrays) -> list[Arrays]:
        """Starts copying the micro-batches of a batch to the devices."""
        parts = split_batch(batch, self._plan.accumulate)
        return [devices.split(part, self._step.mesh) for part in parts]

    def _one_step(
        self, state: TrainState, parts: list[Arrays], position: Position
    ) -> tuple[TrainState, DispatchedStep]:
        teachers = None
        if self._teacher is not None:
            teachers = [self._teacher(part["image"]) for part in parts]
        key = jax.random.fold_in(self._key, position.step)
        rates = self._plan.rates(position.step, self._per_epoch)
        inputs = self._step.inputs(position.masks, key, **rates)
        state, metrics, report = self._step(state, parts, inputs, teachers)
        return state, DispatchedStep(position.step + 1, parts, inputs, teachers, metrics, report)

    def _report(
        self,
        epoch: int,
        position: Position,
        state: TrainState,
        step: DispatchedStep,
        progress: Progress,
    ) -> None:
        last = position.step == self.total_steps
        if position.step % self._plan.log_every and not last:
            return
        values = summarize(step.metrics, pass_kinds(step.inputs))
        self._sampled.drain()
        self._guard.drain(state)  # no extra wait: the metrics were fetched already
        values |= self._guard.counts() | rates_of(step)
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
        mean = None
        if self._score is not None:
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
        shares = self._meter.shares(state.params, position.masks[0])
        counts = self._sampled.take()
        record = interference.record(self._space, position.masks, counts, shares)
        self._log.event(self._plan.task, position.step, record)
        curves = interference.scalars(record) | {"frozen_layers": self._frozen(position)}
        self._log.curves(self._plan.task, position.step, curves)

    def _save_or_stop(self, state: TrainState, position: Position) -> None:
        stop, due = self._vote(self._stop.requested, self._clock.due)
        # Votes arrive with a delay: a vote from before the last save is already satisfied.
        due = due and position.step > self._saved + self._vote.delay
        if stop or due or self._plan.is_save_due(position.step):
            self._save(state, position, score=None)
        if stop:
            self._checkpoints.wait()
            raise Interrupted

    def _save(self, state: TrainState, position: Position, score: float | None) -> None:
        self._guard.drain(state)
        about = self._about | {
            "images_per_step": self._batches.batch_size,
            "total_steps": self.total_steps,
            "watch": self._guard.state(),
            "sampled": self._sampled.state(),
        }
        training_checkpoints.save(self._checkpoints, state, position, about, score)
        self._clock.restart()
        self._saved = position.step

    def _restore(self, step: int, fresh: TrainState) -> tuple[TrainState, Position]:
        state, position, about = training_checkpoints.restore(
            self._checkpoints, step, fresh, self._full, self._step.mesh
        )
        self._guard.restore(about["watch"])
        if "sampled" in about:  # absent from checkpoints of earlier releases
            self._sampled.restore(about["sampled"])
        return state, position


def rates_of(step: DispatchedStep) -> dict[str, float]:
    """The rates of a step under their names in `metrics.jsonl`."""
    names = {"lr": "learning", "step_size_lr": "step_size", "damping": "damping"}
    return {f"rate/{name}": float(getattr(step.inputs, field)) for field, name in names.items()}


def split_batch(batch: Arrays, parts: int) -> list[Arrays]:
    """Splits a batch into micro-batches of equal size."""
    size = len(batch["label"]) // parts
    return [
        {name: values[i * size : (i + 1) * size] for name, values in batch.items()}
        for i in range(parts)
    ]
