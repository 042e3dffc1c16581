"""The coupled training step, for training loops written by users."""

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
from rfquant_jax.train.state import StepReport, TrainState
from rfquant_jax.train.step import TrainStep
from rfquant_jax.train.step_config import StepConfig


@dataclass(frozen=True)
class StepMetrics:
    """Results of one step; reading a property waits for the devices.

    Attributes:
      passes: the metrics of each pass, {name: float32[devices]}; with micro-batches, all passes of
        the first one, then all passes of the next.
      report: whether the update was applied.
      sampled: see `configurations`, on the devices.
    """

    passes: list[Arrays]
    report: StepReport
    sampled: jax.Array

    @property
    def configurations(self) -> np.ndarray:
        """Configurations of the passes, int32[1 + K, L, 2]; the first is the largest allowed."""
        return np.asarray(self.sampled)

    @property
    def losses(self) -> np.ndarray:
        """Loss of each pass, the sum of all terms, float64[1 + K]."""
        return self.term("loss")

    @property
    def accuracies(self) -> np.ndarray:
        """Fraction of the batch that each pass classifies correctly, float64[1 + K]."""
        return self.term("accuracy")

    def term(self, name: str) -> np.ndarray:
        """A metric of each pass, float64[1 + K], mean over devices and micro-batches.

        Args:
          name: a weighted loss term ("cross_entropy", "distillation", "damping", "idm", "region"),
            "loss" or "accuracy".

        Returns:
          NaN for passes without the term; for example, the max pass is not distilled.
        """
        found = [np.mean(devices.fetch(m[name])) if name in m else np.nan for m in self.passes]
        return np.reshape(found, (-1, len(self.sampled))).mean(0, dtype=np.float64)

    @property
    def skipped(self) -> bool:
        """Whether the update was skipped because a value was not finite."""
        return bool(np.any(np.asarray(self.report.failed)))


class CoupledStep:
    """The training step of a coupled network: a max pass, K random passes, one update.

    All passes run the same batch. The max pass runs every layer at its largest bit-widths and
    provides the distillation targets of the random passes. Gradients are summed over the passes.
    SGD with Nesterov momentum updates the weights, Adam the step sizes.

    Configurations, masks and rates are arrays: nothing recompiles when they change, see `traces`.

    Args:
      coupled: the network; its values do not change until `update_network`.
      config: constants; None: the published ones.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).

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
        """Trace count of each compiled function; more than one for one batch shape is a bug."""
        return self._step.traces

    def init(self) -> TrainState:
        """The initial training state, with copies of the network's values."""
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
        """Runs all passes on a batch and applies one update.

        Args:
          state: donated; use the returned state afterwards.
          batch: {"image": [N, H, W, C], "label": int[N]} or a pair (images, labels); N must be
            divisible by the number of devices times `accumulate`.
          key: for the random configurations and dropout. Optional if `configurations` are given
            and the network has no dropout.
          lr: learning rate of all parameters except step sizes.
          step_size_lr: learning rate of step sizes (Adam).
          damping: weight of oscillation damping, eta.
          masks: bit-widths that may be sampled, bool[2, L, |B|] for weights and activations, or
            bool[L, |B|] for both; B is `plan.space.candidates`. None: all that the plan allows.
          configurations: configurations of the random passes, int32[K, L, 2]; None: sampled.
          teacher_logits: logits of an external teacher, from which the max pass is distilled,
            float32[N, classes].

        Returns:
          the new state, and the losses and configurations of the passes. If a value was not finite,
          the update is skipped and the state has the old values.

        Raises:
          ArgumentError: an argument has the wrong shape, or a mask allows no bit-width in a layer.
        """
        parts = split_batch(self._checked(batch), self.config.accumulate)
        mesh = self._coupled.mesh
        on_devices = [devices.split(part, mesh) for part in parts]
        teachers = None
        if teacher_logits is not None:
            logits = np.split(np.asarray(teacher_logits, np.float32), len(parts))
            teachers = [devices.split(part, mesh) for part in logits]
        if configurations is not None:
            configurations = self._explicit(configurations)
        elif key is None:
            raise ArgumentError("key", None, "is needed to sample configurations")
        key = jax.random.key(0) if key is None else key
        rates = {"lr": lr, "step_size_lr": step_size_lr, "damping": damping}
        inputs = self._step.inputs(self._masks(masks), key, **rates, configurations=configurations)
        state, passes, report = self._step(state, on_devices, inputs, teachers)
        return state, StepMetrics(passes, report, inputs.configurations)

    def update_network(self, state: TrainState, *, average: bool = True) -> CoupledNetwork:
        """Writes trained values into the coupled network.

        Args:
          state: the newest state; it stays usable.
          average: whether to write the moving averages, as evaluation and search should use;
            False: the values of the last step.

        Returns:
          the coupled network, modified in place.
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

    def _masks(self, masks: ArrayLike | None) -> np.ndarray:
        full = self._space.full_masks
        if masks is None:
            return full
        given, shape = np.asarray(masks, bool), full.shape[1:]
        if given.shape not in (shape, full.shape):
            raise ArgumentError("masks", given.shape, f"must have shape {shape}, or two of it")
        weights, activations = np.broadcast_to(given, full.shape) & full
        if not (weights.any(1) & activations.any(1)).all():
            layer = int(np.argmin(weights.any(1) & activations.any(1)))
            rule = f"leaves layer {self._space.names[layer]} no bit-width"
            raise ArgumentError("masks", "this mask", rule)
        return np.stack([weights, activations])

    def _explicit(self, configurations: ArrayLike) -> np.ndarray:
        given, space = np.asarray(configurations), self._space
        shape = (self.config.random_passes, len(space), 2)
        if given.shape != shape:
            rule = (
                f"must be int32 of shape {shape}: `random_passes`, layers, weights and activations"
            )
            raise ArgumentError("configurations", given.shape, rule)
        return np.stack([self._coupled.plan.configuration(rows) for rows in given])
