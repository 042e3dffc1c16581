"""The coupled step for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from rfquant_jax.data.arrays import as_batch
from rfquant_jax.errors import ArgumentError
from rfquant_jax.nn.functional import Arrays, arrays_of, write_arrays
from rfquant_jax.quant.coupled_network import CoupledNetwork, check_coupled, check_divisible
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime import devices
from rfquant_jax.train.loop import split_batch
from rfquant_jax.train.state import Masks, Rates, StepReport, TrainState
from rfquant_jax.train.step import TrainStep
from rfquant_jax.train.step_config import StepConfig


@dataclass(frozen=True)
class StepMetrics:
    """What the passes of one step computed; reading a property waits for the devices.

    Attributes:
      passes: of each pass, {name: float32[devices]}; with micro-batches pass by pass of each.
      report: what became of the update.
    """

    passes: list[Arrays]
    report: StepReport

    @property
    def configurations(self) -> np.ndarray:
        """What the passes ran, int32[1 + K, L, 2]; the first is the largest one allowed."""
        return np.asarray(self.report.configurations)

    @property
    def losses(self) -> np.ndarray:
        """Loss of each pass, all terms together, float64[1 + K]."""
        return self.term("loss")

    @property
    def accuracies(self) -> np.ndarray:
        """Share of the batch that each pass classifies right, float64[1 + K]."""
        return self.term("accuracy")

    def term(self, name: str) -> np.ndarray:
        """One loss term of each pass, float64[1 + K], a mean over devices and micro-batches.

        Args:
          name: "cross_entropy", "distillation", "damping", "idm", "region", "loss" or "accuracy".
            NaN where a pass does not have the term: the max pass is not distilled.
        """
        found = [np.mean(devices.fetch(m[name])) if name in m else np.nan for m in self.passes]
        return np.reshape(found, (-1, len(self.report.configurations))).mean(0, dtype=np.float64)

    @property
    def skipped(self) -> bool:
        """Whether a number was not finite, so that the update was left out."""
        return bool(np.any(np.asarray(self.report.failed)))


class CoupledStep:
    """The training step of a coupled network: a max pass, K random passes, one update.

    Every pass runs the same batch. The random passes are distilled from the max pass. Gradients are
    summed over the passes; weights take SGD with Nesterov momentum, step sizes take Adam.

    Configurations, masks and rates are data: nothing recompiles when they change, see `traces`.

    Args:
      coupled: the network; it keeps its values until `update_network`.
      config: constants; None: the published ones.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 3.

    Example:
      >>> step = rfq.CoupledStep(coupled, rfq.StepConfig(random_passes=2))
      >>> state = step.init()
      >>> for number in range(2):
      ...     key = jax.random.fold_in(jax.random.key(0), number)
      ...     state, metrics = step(state, (images, labels), key=key, lr=0.01)
      >>> metrics.losses.shape, metrics.configurations.shape
      ((3,), (3, 2, 2))
      >>> coupled = step.update_network(state)
    """

    def __init__(self, coupled: CoupledNetwork, config: StepConfig | None = None):
        self._coupled, self.config = check_coupled(coupled), config or StepConfig()
        settings = self.config.settings(self._space.candidates)
        self._step = TrainStep(coupled.functional, coupled.mesh, coupled.preprocess, settings)

    @property
    def _space(self) -> Space:
        return self._coupled.plan.space

    @property
    def traces(self) -> dict[str, int]:
        """How often each compiled function was traced; more than once for one shape is a bug."""
        return self._step.traces

    def init(self) -> TrainState:
        """The state that training starts from: copies of the network's values."""
        params, stats = arrays_of(self._coupled.network)
        return self._step.init(params, stats)

    def __call__(
        self,
        state: TrainState,
        batch: Mapping[str, ArrayLike] | tuple[ArrayLike, ArrayLike],
        *,
        key: jax.Array | None = None,
        lr: float,
        step_size_lr: float = 1e-5,
        damping: float = 0.0,
        masks: ArrayLike | None = None,
        configurations: ArrayLike | None = None,
        teacher_logits: ArrayLike | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        """One update.

        Args:
          state: donated: use the returned one from now on.
          batch: {"image": [N, H, W, C], "label": int[N]} or a pair; N is divisible by the number of
            devices times `accumulate`.
          key: decides the random configurations and dropout. It may be left out where
            `configurations` are given and the network has no dropout.
          lr: learning rate of all parameters but step sizes.
          step_size_lr: learning rate of step sizes (Adam).
          damping: weight of oscillation damping, eta.
          masks: bit-widths that may be sampled, bool[L, |B|] for weights and activations alike or
            bool[2, L, |B|]; None: all that the plan allows.
          configurations: of the random passes, int32[K, L, 2]; None: sampled.
          teacher_logits: of an external teacher for the max pass, float32[N, classes].

        Returns:
          the new state, equal to the old one where a number was not finite; the losses and
          configurations of the passes.

        Raises:
          ArgumentError: an argument has the wrong shape, or a mask leaves a layer no bit-width.
        """
        parts = split_batch(self._checked(batch), self.config.accumulate)
        mesh = self._coupled.mesh
        on_devices = [devices.split(part, mesh) for part in parts]
        teachers = None
        if teacher_logits is not None:
            logits = np.split(np.asarray(teacher_logits, np.float32), len(parts))
            teachers = [devices.split(part, mesh) for part in logits]
        rates = Rates(*map(np.float32, (lr, step_size_lr, damping)))
        if configurations is not None:
            configurations = self._explicit(configurations)
        elif key is None:
            raise ArgumentError("key", None, "is needed to sample configurations")
        key = jax.random.key(0) if key is None else key
        state, passes, report = self._step(
            state, on_devices, self._masks(masks), rates, key, teachers, configurations
        )
        return state, StepMetrics(passes, report)

    def update_network(self, state: TrainState, *, average: bool = True) -> CoupledNetwork:
        """Writes what was trained into the coupled network.

        Args:
          state: the newest; it stays usable.
          average: the moving averages, which evaluation and search use; False: the last values.

        Returns:
          the coupled network, which is changed in place.
        """
        if average:
            arrays = state.ema_params | state.ema_stats
        else:
            arrays = state.params | devices.first_copy(state.stats)
        write_arrays(self._coupled.network, {n: devices.local_copy(v) for n, v in arrays.items()})
        return self._coupled

    def _checked(self, batch: Any) -> dict[str, np.ndarray]:
        batch = as_batch(batch)
        check_divisible("batch", len(batch["label"]), self._coupled.mesh, self.config.accumulate)
        return batch

    def _masks(self, masks: ArrayLike | None) -> Masks:
        full = self._space.full_mask
        if masks is None:
            return Masks(full, full)
        given = np.asarray(masks, bool)
        if given.shape not in (full.shape, (2, *full.shape)):
            raise ArgumentError("masks", given.shape, f"must have shape {full.shape}, or two of it")
        weights, activations = np.broadcast_to(given, (2, *full.shape)) & full
        if not (weights.any(1) & activations.any(1)).all():
            layer = int(np.argmin(weights.any(1) & activations.any(1)))
            rule = f"leaves layer {self._space.names[layer]} no bit-width"
            raise ArgumentError("masks", "this mask", rule)
        return Masks(weights, activations)

    def _explicit(self, configurations: ArrayLike) -> np.ndarray:
        given, space = np.asarray(configurations), self._space
        shape = (self.config.random_passes, len(space), 2)
        if given.shape != shape:
            rule = f"must be int32 of shape {shape}: `random_passes`, layers, weights and inputs"
            raise ArgumentError("configurations", given.shape, rule)
        return np.stack([self._coupled.plan.configuration(rows) for rows in given])
