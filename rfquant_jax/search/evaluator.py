"""The compiled evaluator of the search: errors of candidate configurations on a batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.data.loader import TrainingBatches
from rfquant_jax.evaluate.network import batch_statistics_network
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled, Programs
from rfquant_jax.search.metrics import METRICS
from rfquant_jax.search.prefix import CutProgram

_COLUMNS = tuple(METRICS)


class CandidateEvaluator:
    """Errors of configurations on one new batch per iteration.

    BatchNorm uses batch statistics; there is no dropout. Configurations are distributed over
    devices and batches are not sharded. The cut where the evaluation of a configuration starts (see
    `prefix`) depends only on the other configurations of the call. So errors do not depend on the
    number of devices.

    Args:
      functional: a coupled network.
      params: its parameters, replicated over the mesh.
      batches: batch `i` is used in iteration `i`.
      largest: int32[L, 2], the reference configuration of "divergence".
      metric: a name in `metrics.METRICS`.
      starts: layers before which an evaluation may start, see `prefix.choose_starts`; (0,) means
        that every evaluation is a full forward pass.
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
        self._functional, self._params, self._mesh = functional, params, mesh
        self._preprocess, self._largest = preprocess, largest
        self._batches = _Upcoming(batches)
        self._column = _COLUMNS.index(metric)
        self._starts = tuple(starts)
        self._refer = Compiled(self._refer_one, mesh, (REPLICATED,) * 3, SHARDED)
        self._base = Compiled(self._base_one, mesh, (*(REPLICATED,) * 3, SHARDED), SHARDED)
        # One program for each cut, because the host knows the cut of each candidate: on GPU, a
        # conditional copies its predicate to the host and waits for it.
        specs = (REPLICATED, REPLICATED, *(SHARDED,) * 3)
        self._measure = [
            Compiled(partial(self._measure_one, start), mesh, specs, SHARDED)
            for start in range(len(self._starts))
        ]
        # Cached for fixed batches: logits of the largest configuration, and values of the last
        # base.
        self._references: dict[int, jax.Array] = {}
        self._last: tuple[int, list[jax.Array]] | None = None
        self._network_traces = 0
        self._program: CutProgram | None = None
        self._no_reference: jax.Array | None = None

    @property
    def traces(self) -> dict[str, int]:
        """Trace counts of the network, the base pass, the candidate passes (at most one for each
        cut) and, if the metric needs it, the pass of the largest configuration.
        """
        return {
            "network": self._network_traces,
            "largest": self._refer.traces,
            "base": self._base.traces,
            "candidate": sum(program.traces for program in self._measure),
        }

    def __call__(self, configurations: np.ndarray, iteration: int) -> np.ndarray:
        """The metric of each configuration int32[N, L, 2], float32[N].

        NaN if the output is not finite for some image.
        """
        return self._all(configurations, iteration, self._column)

    def by(self, metric: str) -> Callable[[np.ndarray, int], np.ndarray]:
        """The same evaluator with another metric, without recompilation."""
        column = _COLUMNS.index(metric)
        return lambda configurations, iteration: self._all(configurations, iteration, column)

    def mean(self, configurations: np.ndarray, numbers: Iterable[int]) -> np.ndarray:
        """The mean of the metric over several batches, float64[N]; NaN if it is NaN on one of them.

        Args:
          configurations: int32[N, L, 2].
          numbers: indices of fixed batches; values shared by all candidates are cached.
        """
        found = [self._all(configurations, n, self._column, fixed=True) for n in numbers]
        return np.mean(found, axis=0, dtype=np.float64)

    def programs(self, batch: Arrays) -> Programs:
        """The programs of an iteration, for a look at what XLA makes of them.

        Args:
          batch: {"image", "label"}; shapes and dtypes suffice. All batches of an evaluator have
            the same.

        Returns:
          "largest", "base" and "candidate" (from the first cut) as in `traces`: the compiled
          function, and arguments for `compiled.lower(*arguments)`.
        """
        if self._program is None:
            self._trace(batch)
        base = self._largest
        of_largest = self._params, batch["image"], base
        reference = jax.eval_shape(self._refer.jitted, *of_largest)
        of_base = self._params, batch, base, reference
        kept = jax.eval_shape(self._base.jitted, *of_base)
        of_candidate = self._params, batch, reference, kept, np.stack([base] * self._mesh.size)
        return {
            "largest": (self._refer, of_largest),
            "base": (self._base, of_base),
            "candidate": (self._measure[0], of_candidate),
        }

    def _prepare(self, batch: Arrays) -> None:
        """Traces the network for batches like this one."""
        logits = self._trace(batch)
        self._no_reference = devices.per_device(np.zeros(logits.shape, logits.dtype), self._mesh)

    def _trace(self, batch: Arrays) -> jax.ShapeDtypeStruct:
        """Finds the cuts of the network for batches like this one; returns the logits' shape."""
        # Shapes only: the trace runs per device, so it must not capture the arrays' shardings.
        params, batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (self._params, batch)
        )
        logits = jax.eval_shape(self._logits, params, batch["image"], self._largest)
        shared, layers = (params, batch, logits), len(self._largest)
        self._program = CutProgram(self._metrics, shared, layers, self._starts)
        return logits

    def _all(
        self, configurations: np.ndarray, iteration: int, column: int, fixed: bool = False
    ) -> np.ndarray:
        configurations = np.asarray(configurations, np.int32)
        batch = devices.replicate(self._batches[iteration], self._mesh)
        if self._no_reference is None:
            self._prepare(batch)
        reference = self._no_reference
        if _COLUMNS[column] == "divergence":
            reference = self._reference(batch, iteration, fixed)
        base = common_base(configurations)
        different = np.any(configurations != base, axis=2)
        first = np.where(different.any(1), different.argmax(1), different.shape[1])
        starts = np.asarray([self._program.start_of(layer) for layer in first], np.int32)
        kept = self._kept_values(batch, base, reference, starts, iteration if fixed else None)
        # All work is dispatched before any result is fetched, so that devices never wait for the
        # host. Devices run in parallel, on candidates with the same cut.
        groups = list(_groups(starts, self._mesh.size))
        pending = []
        for group in groups:
            rows = devices.spread(configurations[np.resize(group, self._mesh.size)], self._mesh)
            measure = self._measure[starts[group[0]]]
            pending.append(measure(self._params, batch, reference, kept, rows))
        found = np.empty(len(configurations), np.float32)
        for group, measured in zip(groups, devices.fetch(pending), strict=True):
            found[group] = measured[: len(group), column]
        return found

    def _reference(self, batch: Arrays, iteration: int, fixed: bool) -> jax.Array:
        if iteration in self._references:
            return self._references[iteration]
        found = self._refer(self._params, batch["image"], self._largest)
        if fixed:
            self._references[iteration] = found
        return found

    def _kept_values(self, batch, base, reference, starts, fixed_batch) -> list[jax.Array]:
        """The values that candidates start from, computed for a base configuration close to them.

        Full passes only need values that depend on no bit-width, which any base of the batch has.
        """
        if fixed_batch is not None and not starts.any() and self._last is not None:
            number, kept = self._last
            if number == fixed_batch:
                return kept
        self._last = None  # frees its memory before the next allocation
        kept = self._base(self._params, batch, base, reference)
        if fixed_batch is not None:
            self._last = fixed_batch, kept
        return kept

    # The functions below run per device, inside shard_map.

    def _refer_one(self, params, images, configuration):
        return self._logits(params, images, configuration)[None]

    def _base_one(self, params, batch, configuration, reference):
        shared = (params, batch, reference[0])
        return devices.add_axis(self._program.base(shared, configuration))

    def _measure_one(self, start, params, batch, reference, kept, configurations):
        """The metrics of the device's configuration, float32[1, metrics]."""
        shared, kept = (params, batch, reference[0]), devices.drop_axis(kept)
        return self._program.candidate(shared, kept, configurations[0], start)[None]

    def _metrics(self, shared, rows) -> jax.Array:
        """All `METRICS` of one configuration, float32[3]."""
        self._network_traces += 1
        params, batch, reference = shared
        logits, labels = self._logits(params, batch["image"], rows), batch["label"]
        return jnp.stack([metric(logits, labels, reference) for metric in METRICS.values()])

    def _logits(self, params, images, rows) -> jax.Array:
        network = batch_statistics_network(self._functional, params, rows)
        return network(self._preprocess(images)).astype(jnp.float32)


class _Upcoming:
    """Batches by index; the next batch is prepared while the devices work on the current one."""

    def __init__(self, batches: TrainingBatches):
        self._batches, self._worker = batches, ThreadPoolExecutor(1)
        weakref.finalize(self, self._worker.shutdown, wait=False, cancel_futures=True)
        self._next: tuple[int, Future] | None = None

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        if self._next is not None and self._next[0] == number:
            batch = self._next[1].result()
        else:
            batch = self._batches[number]
        self._next = number + 1, self._worker.submit(self._batches.__getitem__, number + 1)
        return batch


def _groups(starts: np.ndarray, size: int) -> Iterable[np.ndarray]:
    """Indices of candidates with equal starts, at most `size` in each group."""
    for start in np.unique(starts):
        same = np.flatnonzero(starts == start)
        yield from np.split(same, range(size, len(same), size))


def common_base(configurations: np.ndarray) -> np.ndarray:
    """The elementwise mode of configurations int32[N, L, 2]."""
    values = np.unique(configurations)
    counts = np.stack([(configurations == value).sum(0) for value in values])
    return values[counts.argmax(0)].astype(np.int32)
