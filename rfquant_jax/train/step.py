"""One training step: a max pass, K random passes, one update.

The coupled training step of RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), from the top down:

    step.py         configurations of the passes -> passes -> update
    host_loop.py    the passes as calls of one compiled program (processors), or
    scan.py         passes and update as one program (GPUs), with the same result up to rounding
    passes.py       one pass: forward pass, loss terms, backward pass
    update.py       one all-reduce, then optimizer, EMA and BatchNorm statistics
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.sampling import PUBLISHED, Sampling, sample_step
from rfquant_jax.quant.space import largest_bits, smallest_bits
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import REPLICATED, Compiled, Programs
from rfquant_jax.train.diagnose import DispatchedStep, Finding, diagnose
from rfquant_jax.train.host_loop import HostLoop
from rfquant_jax.train.optimizer import OptimizerSettings
from rfquant_jax.train.packing import Packing
from rfquant_jax.train.per_device import PerDevice
from rfquant_jax.train.scan import Scan
from rfquant_jax.train.state import StepInputs, StepReport, TrainState
from rfquant_jax.train.training_network import LossWeights, TrainingNetwork
from rfquant_jax.train.update import Update

STRATEGIES = {"loop": HostLoop, "scan": Scan}


def default_strategy() -> str:
    """The default strategy for running passes on this backend."""
    return "loop" if devices.prefer_host_loop() else "scan"


@dataclass(frozen=True)
class StepSettings:
    """Constants of a step.

    Attributes:
      candidates: bit-widths, largest first.
      random_passes: K, number of random passes per micro-batch; 0: full-precision training.
      strategy: one of `STRATEGIES`.
      ema_decay: decay per step of the average of all parameters and statistics.
      loss: weights of the loss terms.
      optimizer: constants of the update.
      sampling: how the configurations of the random passes are drawn.
    """

    candidates: tuple[int, ...]
    random_passes: int
    strategy: str
    ema_decay: float
    loss: LossWeights
    optimizer: OptimizerSettings
    sampling: Sampling = PUBLISHED


class TrainStep:
    """The compiled training step of one network on one mesh.

    With `random_passes = 0` and a plain network it is an ordinary full-precision step.

    Attributes:
      network: the network as the passes run it.
    """

    def __init__(
        self,
        functional: FunctionalNetwork,
        mesh: Mesh,
        preprocess: Preprocess,
        settings: StepSettings,
    ):
        self.functional, self.mesh, self.settings = functional, mesh, settings
        packing = Packing(functional) if STRATEGIES[settings.strategy] is Scan else None
        self.network = TrainingNetwork(functional, preprocess, settings.loss, packing)
        self._step_update = Update(functional, settings.optimizer, settings.ema_decay)
        self._sample = Compiled(self._sample_configurations, mesh, (REPLICATED,) * 2, REPLICATED)
        self._run_passes = STRATEGIES[settings.strategy](
            PerDevice(self.network), self._step_update, mesh, settings.random_passes
        )

    @property
    def traces(self) -> dict[str, int]:
        """Trace count of each compiled function."""
        return {"sample": self._sample.traces} | self._run_passes.traces

    def init(self, params: Arrays, stats: Arrays | None = None) -> TrainState:
        """The initial state; the EMA starts as a copy of the parameters and statistics.

        Args:
          params: initial parameters.
          stats: initial BatchNorm statistics; None: those of the network.
        """
        start = self.functional.stats if stats is None else stats
        # A step donates every field, so no field may share memory with another or with the caller.
        copies = [devices.copied(dict(params)) for _ in range(2)]
        replicate = partial(devices.replicate, mesh=self.mesh)
        return TrainState(
            params=replicate(copies[0]),
            stats=devices.per_device(start, self.mesh),
            optimizer=replicate(self._step_update.init(params)),
            ema_params=replicate(copies[1]),
            ema_stats=replicate(devices.copied(dict(start))),
        )

    def inputs(
        self,
        masks: np.ndarray,
        key: jax.Array,
        *,
        lr: float,
        step_size_lr: float,
        damping: float,
        configurations: np.ndarray | None = None,
    ) -> StepInputs:
        """The inputs of a step.

        Args:
          masks: the bit-widths that may be sampled, of weights and activations, bool[2, L, |B|].
          key: for sampling configurations (equal on all devices) and dropout (different on each).
          lr, step_size_lr, damping: see `StepInputs`.
          configurations: configurations of the random passes, int32[K, L, 2]; None: drawn with the
            key.
        """
        sample_key, dropout_key = jax.random.split(key)
        candidates = self.settings.candidates
        if configurations is None:
            configurations = self._sample(sample_key, masks)
        else:
            largest = np.stack([largest_bits(mask, candidates) for mask in masks], axis=-1)
            configurations = np.concatenate([largest[None], configurations]).astype(np.int32)
            configurations = devices.replicate(configurations, self.mesh)
        smallest = np.stack([smallest_bits(mask, candidates) for mask in masks], axis=-1)
        rates = map(np.float32, (lr, step_size_lr, damping))
        return StepInputs(configurations, smallest, *rates, dropout_key)

    def __call__(
        self,
        state: TrainState,
        batches: Sequence[Arrays],
        inputs: StepInputs,
        teachers: Sequence[jax.Array] | None = None,
    ) -> tuple[TrainState, list[Arrays], StepReport]:
        """Runs one update on a batch, given as one or more micro-batches.

        Args:
          state: donated.
          batches: micro-batches {"image": [N, H, W, C], "label": int32[N]}, sharded over devices.
          inputs: from `inputs`.
          teachers: logits of an external teacher for each micro-batch, float32[N, classes].

        Returns:
          the new state, or the old one if a value was not finite; the metrics of each pass in
          order, {name: float32[devices]}; the report of the update.
        """
        self._trace_stem(batches[0]["image"])
        teachers = teachers or [None] * len(batches)
        result = self._run_passes(state, batches, teachers, inputs)
        return devices.settle_step(result, self.mesh)

    def diagnose(self, state: TrainState, step: DispatchedStep) -> Finding:
        """Locates the first non-finite value of a failed step; see `diagnose.diagnose`."""
        # Not packed: it runs the passes one by one, from the state as it is between steps.
        network = TrainingNetwork(self.functional, self.network.preprocess, self.settings.loss)
        return diagnose(network, state, step)

    def programs(self, state: TrainState, batch: Arrays, inputs: StepInputs) -> Programs:
        """The programs of a step with one micro-batch, for a look at what XLA makes of them.

        Returns:
          for each name in `traces`: the compiled function, and arguments (some of them shapes and
          dtypes alone) for `compiled.lower(*arguments)`.
        """
        self._trace_stem(batch["image"])
        layers = inputs.configurations.shape[1]
        masks = jax.ShapeDtypeStruct((2, layers, len(self.settings.candidates)), bool)
        found = {"sample": (self._sample, (inputs.key, masks))}
        return found | self._run_passes.programs(state, batch, inputs)

    def _trace_stem(self, images: jax.Array) -> None:
        """Before the first step, finds the part of the network that all passes share (the stem).

        Passes differ in bit-widths only, so layers before the first searched one compute the same
        in all of them. With a single pass there is nothing to share.
        """
        if self.settings.random_passes and self.network.stem is None:
            shape = (images.shape[0] // self.mesh.size, *images.shape[1:])
            part = jax.ShapeDtypeStruct(shape, images.dtype)
            self.network.trace_stem(part, passes=1 + self.settings.random_passes)

    def _sample_configurations(self, key: jax.Array, masks: jax.Array) -> jax.Array:
        constants = self.settings
        shared = constants.candidates, constants.random_passes, constants.sampling
        return sample_step(key, *masks, *shared)
