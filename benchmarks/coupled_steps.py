"""The steps measured by train_step.py: coupled steps, and plain steps as the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.step_settings import StepTask, images
from rfquant_jax import models
from rfquant_jax.data.transforms import normalizer
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.nn.precision import compute_in, compute_type
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.plan import QuantConfig, QuantizationPlan
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime import devices
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.state import TrainState
from rfquant_jax.train.step import StepSettings, TrainStep
from rfquant_jax.train.training_network import LossWeights

RATES = {"lr": 0.01, "step_size_lr": 1e-5, "damping": 0.1}


def plain_step(task: StepTask, mesh: Mesh | None = None) -> tuple[TrainStep, Space]:
    """A full-precision step: one plain pass and the update; without a mesh, on all devices."""
    candidates = QuantConfig().candidates
    empty = Space((), candidates, np.zeros((0, len(candidates)), bool))
    chosen = _settings("loop", 0, LossWeights(idm=0.0))
    functional = FunctionalNetwork(_network(task))
    return TrainStep(functional, mesh or devices.make_mesh(), preprocess(task), chosen), empty


def coupled_step(
    task: StepTask, strategy: str, *, idm: bool = True, mesh: Mesh | None = None
) -> tuple[TrainStep, Space]:
    """A coupled step with every ingredient on; information distortion mitigation may be off.

    Without a mesh, on all devices.
    """
    functional, plan = coupled_network(task)
    loss = LossWeights(idm=0.01 if idm else 0.0, region=-2.5e-5)
    chosen = _settings(strategy, task.random_passes, loss)
    step = TrainStep(functional, mesh or devices.make_mesh(), preprocess(task), chosen)
    return step, plan.space


def coupled_network(task: StepTask) -> tuple[FunctionalNetwork, QuantizationPlan]:
    """The converted network, with step sizes that are not calibrated."""
    plain = _network(task)
    plan = QuantizationPlan.of(plain, task.image_shape, QuantConfig())
    return FunctionalNetwork(plan.convert(plain)), plan


def stepper(made: tuple[TrainStep, Space], task: StepTask) -> Callable[[], None]:
    """A function that takes the next step and waits for it."""
    running = states(made, task)

    def take() -> None:
        jax.block_until_ready(next(running))

    return take


def states(made: tuple[TrainStep, Space], task: StepTask) -> Iterator[TrainState]:
    """The state after each step, not waited for."""
    step, space = made
    masks = np.stack([space.full_mask] * 2)
    state = step.init(step.functional.params)
    for number, batch in enumerate(images(task, task.batch * step.mesh.size)):
        parts = [devices.split(batch, step.mesh)]
        inputs = step.inputs(masks, jax.random.key(number), **RATES)
        state, *_ = step(state, parts, inputs)
        yield state


def _network(task: StepTask):
    """The plain network, randomly initialised."""
    plain = models.create(task.network, num_classes=task.classes, channels=3, seed=0)
    return compute_in(plain, compute_type(task.precision))


def _settings(strategy: str, random_passes: int, loss: LossWeights) -> StepSettings:
    """The step of the paper."""
    return StepSettings(
        candidates=QuantConfig().candidates,
        random_passes=random_passes,
        strategy=strategy,
        ema_decay=0.9997,
        loss=loss,
        optimizer=OptimizerSettings(weight_decay=2.5e-5),
    )


def preprocess(task: StepTask) -> Preprocess:
    """Maps images to the network's input, in the compute dtype."""
    return normalizer((0.5,), (0.25,), compute_type(task.precision))
