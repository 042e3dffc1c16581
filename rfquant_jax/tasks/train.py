"""The tasks `pretrain` and `train`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN, Checkpoints
from rfquant_jax.config import settings
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.errors import CheckpointError, ConfigError
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.convert import layers_without_feature, signed_layers
from rfquant_jax.quant.remarks import normalization_remarks
from rfquant_jax.quant.space import Space
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.network_check import warn_if_not_quantizable
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.teacher import load_teacher
from rfquant_jax.train.loop import TrainingLoop
from rfquant_jax.train.plan import Plan
from rfquant_jax.train.scheduler import InstabilityMeter
from rfquant_jax.train.step import TrainStep


class Start(NamedTuple):
    """The initial state of coupled training.

    Attributes:
      functional: the coupled network.
      params: its initial parameters.
      signed: its layers with signed input.
      stats: its initial BatchNorm statistics; None: those of `functional`.
    """

    functional: FunctionalNetwork
    params: Arrays
    signed: list[str]
    stats: Arrays | None = None


MOST_INITIAL = 0.02  # share of the initial weights in the EMA, above which there is a warning


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
    batches = training_batches(run, stage, plan)
    with run.checkpoints(stage, write=True) as checkpoints:
        if _finished(batches, checkpoints):
            run.log.info(f"{stage}: finished before, at step {checkpoints.latest}")
            return
        if plan.epochs:
            _log_averaging(run, plan, batches, run.config[stage])
        work(run, plan, batches, checkpoints)


def _pretrain(run: Run, plan: Plan, batches: TrainingBatches, checkpoints: Checkpoints) -> None:
    network, fresh = run.initial_network
    if checkpoints.latest is None:
        run.log.info(f"pretrain: starts from {run.config.pretrained or 'random weights'}")
        warn_if_not_quantizable(run)
    if fresh:
        run.log.info(f"pretrained: other classes, so randomly initialised: {', '.join(fresh)}")
    functional = FunctionalNetwork(network)
    measure = Measure(run, functional)

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
    start = _coupled_start(run, batches, checkpoints, untrained=plan.epochs == 0)
    functional = start.functional
    measure, space = Measure(run, functional), run.plan.space

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


def _coupled_start(
    run: Run, batches: TrainingBatches, checkpoints: Checkpoints, *, untrained: bool
) -> Start:
    """The initial state of coupled training.

    Args:
      untrained: whether no training follows.
    """
    if checkpoints.latest is not None:
        signed = checkpoints.about(checkpoints.latest)["signed"]
        functional = FunctionalNetwork(run.plan.convert(run.network, signed))
        return Start(functional, functional.params, signed)  # parameters come from the checkpoint
    for line in normalization_remarks(run.abstract_network, run.plan.layers):
        run.log.info(line)
    if run.config.train.init == "checkpoint":
        return _continued(run)
    trained = networks.full_precision(run)
    run.log.info(f"train: starts from the full-precision network {trained.origin}")
    if run.config.checkpoint and networks.has_checkpoints(networks.other_run(run), TRAIN):
        run.log.info(
            f"train: the coupled network of {run.config.checkpoint} is not used; "
            "train.init=checkpoint continues it"
        )
    plain = trained.network()
    if without := layers_without_feature(plain, run.plan.layers):
        run.log.info(
            f"no Feature marks {', '.join(without)}: their BatchNorm's output is the feature"
        )
    start = Start(*(_untrained if untrained else _initial)(run, batches, plain))
    run.log.info(f"layers with signed input: {', '.join(start.signed) or 'none'}")
    return start


def _continued(run: Run) -> Start:
    """The moving average of the coupled network of `config.checkpoint`."""
    trained = networks.coupled(run)
    run.log.info(f"train: starts from the moving average of the coupled network {trained.origin}")
    signed = signed_layers(trained.network())
    return Start(trained.functional, trained.params, signed, trained.stats)


def _initial(run: Run, batches: TrainingBatches, plain: nnx.Module) -> tuple:
    """The initial network, calibrated on the first training batches."""
    count = run.config.quant.calibration_batches
    images = [batches[i]["image"] for i in range(count)]
    run.log.info(f"step sizes: from {count} batches of {batches.batch_size} training images")
    return run.plan.start(plain, images, run.preprocess, run.mesh)


def _untrained(run: Run, batches: TrainingBatches, plain: nnx.Module) -> tuple:
    """The network for use without training, calibrated on training images in evaluation batches."""
    config = run.config
    count = min(config.quant.calibration_batches * batches.batch_size, len(run.data.train))
    size, seed = config.evaluate.batch_size, settings.derived_seed(config, "calibration")
    images = list(run.pipeline.full(run.data.train, size, count, seed=seed))
    run.log.info(
        f"train.epochs is 0: step sizes of least squared error from {count} training images"
    )
    given = run.preprocess, run.mesh, run.stop.check
    return run.plan.start_untrained(plain, images, *given)


def training_batches(run: Run, section: str, plan: Plan) -> TrainingBatches:
    """The batches of a training task.

    Args:
      section: config section, "pretrain" or "train".

    Raises:
      ConfigError: a batch is larger than the training part or not divisible.
    """
    field, size, images = f"{section}.batch_size", run.config[section].batch_size, run.data.train
    parts = run.mesh.size * plan.accumulate
    if size % parts:
        lower, upper = size // parts * parts, -(-size // parts) * parts
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        micro = f" in {plan.accumulate} micro-batches each" if plan.accumulate > 1 else ""
        rule = f"cannot be divided evenly over {_counted(run.mesh.size)}{micro}; {nearest} can"
        raise ConfigError(field, size, rule)
    if size > len(images):
        raise ConfigError(field, size, f"there are only {len(images)} training images")
    return run.pipeline.training(images, size, seed=plan.seed)


def _counted(devices: int) -> str:
    return f"{devices} device{'s' * (devices > 1)}"


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
    batches = training_batches(run, section, plans[section](run.config))
    if not networks.has_checkpoints(run.workdir, section):
        return False
    with run.checkpoints(section, quiet=True) as checkpoints:
        return _finished(batches, checkpoints)


def _finished(batches: TrainingBatches, checkpoints: Checkpoints) -> bool:
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


def _log_averaging(run: Run, plan: Plan, batches: TrainingBatches, section: ConfigDict) -> None:
    steps = plan.epochs * plan.epoch_length(batches)
    for line in averaging(plan.task, steps, section.ema_decay):
        run.log.info(line)


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
