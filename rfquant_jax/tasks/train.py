"""The tasks `pretrain` and `train`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN, Checkpoints
from rfquant_jax.config import settings
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.space import Space
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.coupled_start import coupled_start
from rfquant_jax.tasks.measure import measure_of
from rfquant_jax.tasks.network_check import warn_if_not_quantizable
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.teacher import load_teacher
from rfquant_jax.tasks.training_batches import averaging, finished, training_batches
from rfquant_jax.train.loop import TrainingLoop
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import InstabilityMeter
from rfquant_jax.train.step import TrainStep


def pretrain(run: Run) -> None:
    """Trains the full-precision network; resumes from its newest checkpoint.

    Training starts from the weights of `config.pretrained`, if given. With 0 epochs these weights
    are evaluated and saved unchanged.

    Raises:
      UserError: the weights cannot be read or do not fit.
      RunFailure: a checkpoint cannot be written.
      Interrupted: a signal was received; the state is saved.
    """
    _go_on(run, PRETRAIN, settings.pretrain_plan(run.config), _pretrain)


def _go_on(run: Run, stage: str, plan: Plan, work: Callable[..., None]) -> None:
    """Starts or resumes a stage of training, unless it is finished."""
    run.claim()
    batches = _batches(run, plan)
    with run.checkpoints(stage, write=True) as checkpoints:
        if finished(batches, checkpoints):
            run.log.info(f"{stage}: finished before, at step {checkpoints.latest}")
            return
        if plan.epochs:
            steps = plan.epochs * plan.epoch_length(batches)
            for line in averaging(stage, steps, run.config[stage].ema_decay):
                run.log.info(line)
        work(run, plan, batches, checkpoints)


def _pretrain(run: Run, plan: Plan, batches: TrainingBatches, checkpoints: Checkpoints) -> None:
    network, fresh = run.initial_network
    if checkpoints.latest is None:
        run.log.info(f"pretrain: starts from {run.config.pretrained or 'random weights'}")
        warn_if_not_quantizable(run)
    if fresh:
        run.log.info(f"pretrained: other classes, so randomly initialised: {', '.join(fresh)}")
    functional = FunctionalNetwork(network)
    measure = measure_of(run, functional)

    def score(params: Arrays, stats: Arrays) -> dict[str, float]:
        accuracy = measure.full_precision(run.data.held_out, params, stats)
        return {"full_precision": accuracy.top1_percent}

    candidates = tuple(run.config.quant.candidates)
    TrainingLoop(
        plan,
        TrainStep(functional, run.mesh, run.preprocess, settings.pretrain_step(run.config)),
        batches,
        Space((), candidates, np.zeros((0, len(candidates)), bool)),
        checkpoints=checkpoints,
        log=run.log,
        stop=run.stop,
        score=score,
    ).run(functional.params)


def train(run: Run) -> None:
    """Coupled training; resumes from its newest checkpoint.

    It starts from the full-precision network or, with `train.init` "checkpoint", from the moving
    average of the coupled network of `config.checkpoint`, with a new schedule and optimizer.

    With 0 epochs, step sizes are searched and the network is saved without training.

    Raises:
      CheckpointError: there is no network to start from, or it does not fit.
      RunFailure: a checkpoint cannot be written.
      Interrupted: a signal was received; the state is saved.
    """
    _go_on(run, TRAIN, settings.coupled_plan(run.config), _train)


def _train(run: Run, plan: Plan, batches: TrainingBatches, checkpoints: Checkpoints) -> None:
    start = coupled_start(run, batches, checkpoints, untrained=plan.epochs == 0)
    functional = start.functional
    measure, space = measure_of(run, functional), run.plan.space

    def score(params: Arrays, stats: Arrays) -> dict[str, float]:
        scores = {}
        for weights, activations in space.levels:
            configuration = space.uniform(weights, activations)
            accuracy = measure.quantized(run.data.held_out, params, configuration)
            scores[f"w{weights}a{activations}"] = accuracy.top1_percent
        return scores

    TrainingLoop(
        plan,
        TrainStep(functional, run.mesh, run.preprocess, settings.coupled_step(run.config)),
        batches,
        space,
        checkpoints=checkpoints,
        log=run.log,
        stop=run.stop,
        score=score,
        meter=InstabilityMeter(functional, run.config.scheduler.boundary, space.candidates),
        teacher=load_teacher(run) if plan.epochs else None,
        about={"signed": start.signed},
    ).run(start.params, start.stats)


def check(run: Run, section: str) -> bool:
    """Checks that a training task can start or resume from its newest checkpoint.

    Args:
      section: config section, "pretrain" or "train".

    Returns:
      whether it is already finished.

    Raises:
      ConfigError: a batch is larger than the training part or not divisible.
      CheckpointError: the checkpoint is of another network or batch size.
    """
    plans = {"pretrain": settings.pretrain_plan, "train": settings.coupled_plan}
    batches = _batches(run, plans[section](run.config))
    if not networks.has_checkpoints(run.workdir, section):
        return False
    with run.checkpoints(section, quiet=True) as checkpoints:
        return finished(batches, checkpoints)


def _batches(run: Run, plan: Plan) -> TrainingBatches:
    size = run.config[plan.task].batch_size
    return training_batches(run.data.train, run.pipeline, size, run.mesh.size, plan)
