"""The jitted evaluator that drives the search: errors of candidate configurations on a batch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rfquant_jax import parallel
from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.models.pure import Arrays, PureNetwork, zeros_like
from rfquant_jax.parallel import REPLICATED, SHARDED, Compiled
from rfquant_jax.quant.calibrate import Preprocess, with_batch_statistics
from rfquant_jax.quant.layers import assign
from rfquant_jax.train import losses

METRICS = ("error", "cross_entropy")


class CandidateEvaluator:
    """Errors of configurations on one fresh batch an iteration.

    Batch statistics in BatchNorm, no dropout. Configurations are spread over the devices; a batch
    is never split, so that the errors do not depend on how many devices there are.

    Args:
      pure: a coupled network.
      params: its parameters, replicated over the mesh.
      batches: batch `i` serves iteration `i`.
      metric: "error" (top-1) or "cross_entropy".
    """

    def __init__(
        self,
        pure: PureNetwork,
        params: Arrays,
        mesh: Mesh,
        preprocess: Preprocess,
        batches: TrainingBatches,
        metric: str,
    ):
        self._pure, self._params, self._mesh = pure, params, mesh
        self._preprocess, self._batches = preprocess, batches
        self._column = METRICS.index(metric)
        specs = (REPLICATED, REPLICATED, SHARDED)
        self._measure = Compiled(self._measure_one, mesh, specs, SHARDED)

    @property
    def traces(self) -> int:
        """How often the evaluation was traced."""
        return self._measure.traces

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        """The metric of each configuration int32[N, L, 2], float32[N]."""
        return self._all(configurations, iteration)[:, self._column]

    def by(self, metric: str) -> Callable[[np.ndarray, int], np.ndarray]:
        """The same evaluation by another metric; nothing is compiled again."""
        column = METRICS.index(metric)
        return lambda configurations, iteration: self._all(configurations, iteration)[:, column]

    def _all(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        batch = parallel.replicate(self._batches[iteration], self._mesh)
        size = self._mesh.size
        # Everything is dispatched before anything is fetched: host and devices do not wait.
        pending = []
        for start in range(0, len(configurations), size):
            group = configurations[start : start + size]
            filler = np.repeat(group[-1:], size - len(group), axis=0)
            group = parallel.split(np.concatenate([group, filler]), self._mesh)
            pending.append(self._measure(self._params, batch, group))
        return np.concatenate(jax.device_get(pending))[: len(configurations)]

    def _measure_one(self, params, batch, configurations):
        """Runs per device, on its one configuration: float32[1, 2], error and cross-entropy."""
        network = with_batch_statistics(self._pure, params, zeros_like(self._pure.stats))
        assign(network, configurations[0])
        logits = network(self._preprocess(batch["image"]))
        # A network that fails to compute is wrong: argmax alone would call class 0.
        right = (jnp.argmax(logits, -1) == batch["label"]) & jnp.all(jnp.isfinite(logits), -1)
        entropy = losses.cross_entropy(logits, batch["label"])
        return jnp.stack([1 - jnp.mean(right), entropy])[None]
