"""The programs of a step, an evaluation and a search, with shapes for arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.coupled_steps import RATES, coupled_network, coupled_step, plain_step, preprocess
from benchmarks.step_settings import StepTask
from rfquant_jax.evaluate.evaluator import Evaluator
from rfquant_jax.nn.functional import Arrays
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.devices import Programs
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.prefix import choose_starts
from rfquant_jax.train.step import STRATEGIES, TrainStep

PLAIN, EVALUATE, SEARCH = "plain", "evaluate", "search"
STEPS = (PLAIN, *STRATEGIES)
GROUPS = (*STEPS, EVALUATE, SEARCH)

BITS = 4  # of the evaluated configuration
STARTS = 16  # cuts of the search


@dataclass(frozen=True)
class Group:
    """Programs that belong together, such as those of a step.

    Attributes:
      times: how often a step calls each program; for the others 1.
      beside: bytes on a device that belong to the step, but that passes do not take if they are
        programs of their own: the state of the optimizer and the averages.
    """

    programs: Programs
    times: dict[str, int] = field(default_factory=dict)
    beside: int = 0


def group(name: str, task: StepTask, mesh: Mesh, *, idm: bool) -> Group:
    """The programs of one of `GROUPS`.

    Args:
      task: with images per device; a search gives this batch to each device.
      mesh: of devices that may not exist.
    """
    if name == EVALUATE:
        return evaluation(task, mesh)
    if name == SEARCH:
        return search(task, mesh)
    if name == PLAIN:
        return step_programs(*plain_step(task, mesh), task)
    return step_programs(*coupled_step(task, name, idm=idm, mesh=mesh), task)


def step_programs(step: TrainStep, space: Space, task: StepTask) -> Group:
    """All programs of a step with one micro-batch."""
    masks = np.stack([space.full_mask] * 2)

    # Abstractly, because the devices of the mesh may not exist.
    def arguments():
        inputs = step.inputs(masks, jax.random.key(0), **RATES)
        return step.init(step.functional.params), inputs

    state, inputs = jax.eval_shape(arguments)
    programs = step.programs(state, batch(task, task.batch * step.mesh.size), inputs)
    # Zeros that only the first step makes.
    times = {"buffers": 0, "one_pass": 1 + step.settings.random_passes}
    averaged = state.optimizer, state.ema_params, state.ema_stats
    return Group(programs, times, size(averaged) if "one_pass" in programs else 0)


def evaluation(task: StepTask, mesh: Mesh) -> Group:
    """Recalibration and counting of a uniform configuration, a batch on each device."""
    functional, plan = coupled_network(task)
    evaluator = Evaluator(functional, mesh, preprocess(task))
    chosen = plan.space.uniform(BITS, BITS)
    images = batch(task, task.batch * mesh.size)
    return Group(evaluator.programs(functional.params, images, chosen))


def search(task: StepTask, mesh: Mesh) -> Group:
    """The passes of an iteration; a candidate that starts at the first searched layer."""
    functional, plan = coupled_network(task)
    largest = plan.space.largest
    starts = choose_starts([layer.macs for layer in plan.layers if layer.candidates], STARTS)
    none: Sequence[Arrays] = ()
    evaluator = CandidateEvaluator(
        functional,
        functional.params,
        mesh,
        preprocess(task),
        none,
        largest,
        "divergence",
        starts,
    )
    return Group(evaluator.programs(batch(task, task.batch)))


def batch(task: StepTask, count: int) -> Arrays:
    """The shapes of `count` images and labels."""
    return {
        "image": jax.ShapeDtypeStruct((count, *task.image_shape), np.uint8),
        "label": jax.ShapeDtypeStruct((count,), np.int32),
    }


def size(tree: object) -> int:
    """Bytes of arrays given by shape and dtype."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
