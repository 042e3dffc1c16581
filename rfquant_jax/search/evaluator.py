"""The jitted evaluator that drives the search: errors of candidate configurations on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork, zeros_like
from rfquant_jax.quant.calibrate import Preprocess, with_batch_statistics
from rfquant_jax.quant.layers import assign, evaluate_on_codes
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled
from rfquant_jax.search.prefix import CutProgram
from rfquant_jax.train import losses

# Of one configuration, in the order of the evaluation's columns: share of images classified wrong,
# mean cross-entropy, and mean Kullback-Leibler divergence of its probabilities from those of the
# largest configuration, which needs no labels and so lacks their noise.
METRICS = ("error", "cross_entropy", "divergence")


class CandidateEvaluator:
    """Errors of configurations on one fresh batch an iteration.

    Batch statistics in BatchNorm, no dropout. Configurations are spread over the devices; a batch
    is never split, and where a configuration starts (see `prefix`) depends on nothing but what it
    is compared with, so that the errors do not depend on how many devices there are.

    Args:
      functional: a coupled network.
      params: its parameters, replicated over the mesh.
      batches: batch `i` serves iteration `i`.
      largest: int32[L, 2], the configuration that "divergence" compares with.
      metric: one of `METRICS`.
      starts: layers that an evaluation may start before, see `prefix.choose_starts`; with 0 alone
        every evaluation is a whole forward pass.
    """

    def __init__(
        self,
        functional: FunctionalNetwork,
        params: Arrays,
        mesh: Mesh,
        preprocess: Preprocess,
        batches: TrainingBatches,
        largest: np.ndarray,
        metric: str,
        starts: Sequence[int] = (0,),
    ):
        self._pure, self._params, self._mesh = functional, params, mesh
        self._preprocess, self._largest = preprocess, largest
        self._batches = _Upcoming(batches)
        self._column = METRICS.index(metric)
        self._starts = tuple(starts)
        self._refer = Compiled(self._refer_one, mesh, (REPLICATED,) * 3, SHARDED)
        self._base = Compiled(self._base_one, mesh, (*(REPLICATED,) * 3, SHARDED), SHARDED)
        specs = (REPLICATED, REPLICATED, *(SHARDED,) * 4)
        self._measure = Compiled(self._measure_one, mesh, specs, SHARDED)
        # Of fixed batches: the logits of the largest configuration, and values from the last base.
        self._references: dict[int, jax.Array] = {}
        self._last: tuple[int, list[jax.Array]] | None = None
        self._network_traces = 0
        self._program: CutProgram | None = None

    @property
    def traces(self) -> dict[str, int]:
        """How often the network, the pass of the base and that of a candidate were traced.

        And the pass of the largest configuration, where the metric needs it.
        """
        return {
            "network": self._network_traces,
            "largest": self._refer.traces,
            "base": self._base.traces,
            "candidate": self._measure.traces,
        }

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        """The metric of each configuration int32[N, L, 2], float32[N].

        NaN where the network does not compute a number for some image.
        """
        return self._all(configurations, iteration, self._column)

    def by(self, metric: str) -> Callable[[np.ndarray, int], np.ndarray]:
        """The same evaluation by another metric; nothing is compiled again."""
        column = METRICS.index(metric)
        return lambda configurations, iteration: self._all(configurations, iteration, column)

    def mean(self, configurations: np.ndarray, numbers: Iterable[int]) -> np.ndarray:
        """The metric's mean over several batches, float64[N]; NaN where one of them is.

        Args:
          configurations: int32[N, L, 2].
          numbers: of batches that never change; what all candidates share is computed once.
        """
        found = [self._all(configurations, n, self._column, fixed=True) for n in numbers]
        return np.mean(found, axis=0, dtype=np.float64)

    def _prepare(self, batch: Arrays) -> None:
        """Traces the network for batches like this one."""
        # Shapes alone: what is traced here runs per device, wherever these arrays lie.
        params, batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (self._params, batch)
        )
        logits = jax.eval_shape(self._logits, params, batch["image"], self._largest)
        shared, layers = (params, batch, logits), len(self._largest)
        self._program = CutProgram(self._metrics, shared, layers, self._starts)
        self._no_reference = devices.per_device(np.zeros(logits.shape, logits.dtype), self._mesh)

    def _all(
        self, configurations: np.ndarray, iteration: int, column: int, fixed: bool = False
    ) -> np.ndarray:
        configurations = np.asarray(configurations, np.int32)
        batch = devices.replicate(self._batches[iteration], self._mesh)
        if self._program is None:
            self._prepare(batch)
        reference = self._no_reference
        if METRICS[column] == "divergence":
            reference = self._reference(batch, iteration, fixed)
        base = common_base(configurations)
        different = np.any(configurations != base, axis=2)
        first = np.where(different.any(1), different.argmax(1), different.shape[1])
        starts = np.asarray([self._program.start_of(layer) for layer in first], np.int32)
        kept = self._kept_values(batch, base, reference, starts, iteration if fixed else None)
        # Devices work side by side: those that start at the same place go together.
        order = np.argsort(starts, kind="stable")
        # Everything is dispatched before anything is fetched: host and devices do not wait.
        pending = []
        for group in np.split(order, range(self._mesh.size, len(order), self._mesh.size)):
            group = np.resize(group, self._mesh.size)
            rows, places = devices.spread((configurations[group], starts[group]), self._mesh)
            pending.append(self._measure(self._params, batch, reference, kept, rows, places))
        found = np.concatenate(devices.fetch(pending))[: len(order), column]
        return found[np.argsort(order)]

    def _reference(self, batch: Arrays, iteration: int, fixed: bool) -> jax.Array:
        if iteration in self._references:
            return self._references[iteration]
        found = self._refer(self._params, batch["image"], self._largest)
        if fixed:
            self._references[iteration] = found
        return found

    def _kept_values(self, batch, base, reference, starts, fixed_batch) -> list[jax.Array]:
        """What candidates start from: values of a base they are close to.

        Whole passes only need what no bit-width changes: any base of the same batch has it.
        """
        if fixed_batch is not None and not starts.any() and self._last is not None:
            number, kept = self._last
            if number == fixed_batch:
                return kept
        self._last = None  # frees its memory before the next takes as much
        kept = self._base(self._params, batch, base, reference)
        if fixed_batch is not None:
            self._last = fixed_batch, kept
        return kept

    # What follows runs per device.

    def _refer_one(self, params, images, configuration):
        return self._logits(params, images, configuration)[None]

    def _base_one(self, params, batch, configuration, reference):
        shared = (params, batch, reference[0])
        return devices.add_axis(self._program.base(shared, configuration))

    def _measure_one(self, params, batch, reference, kept, configurations, starts):
        """On its one configuration: float32[1, metrics]."""
        shared, kept = (params, batch, reference[0]), devices.drop_axis(kept)
        return self._program.candidate(shared, kept, configurations[0], starts[0])[None]

    def _metrics(self, shared, rows) -> jax.Array:
        """`METRICS` of one configuration, float32[3]."""
        self._network_traces += 1
        params, batch, reference = shared
        logits, labels = self._logits(params, batch["image"], rows), batch["label"]
        # argmax alone would take what is not a number for class 0.
        error = jnp.where(
            jnp.all(jnp.isfinite(logits)), jnp.mean(jnp.argmax(logits, -1) != labels), jnp.nan
        )
        entropy = losses.cross_entropy(logits, labels)
        return jnp.stack([error, entropy, losses.distillation(reference, logits)])

    def _logits(self, params, images, rows) -> jax.Array:
        network = with_batch_statistics(self._pure, params, zeros_like(self._pure.stats))
        evaluate_on_codes(network)
        assign(network, rows)
        return network(self._preprocess(images)).astype(jnp.float32)


class _Upcoming:
    """Batches by number; the next one is prepared while the devices work on the last."""

    def __init__(self, batches: TrainingBatches):
        self._batches, self._worker = batches, ThreadPoolExecutor(1)
        self._next: tuple[int, Future] | None = None

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        if self._next is not None and self._next[0] == number:
            batch = self._next[1].result()
        else:
            batch = self._batches[number]
        self._next = number + 1, self._worker.submit(self._batches.__getitem__, number + 1)
        return batch


def common_base(configurations: np.ndarray) -> np.ndarray:
    """The configuration that most of the given ones int32[N, L, 2] agree with, place by place."""
    values = np.unique(configurations)
    counts = np.stack([(configurations == value).sum(0) for value in values])
    return values[counts.argmax(0)].astype(np.int32)
