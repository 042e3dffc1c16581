"""Exact evaluation of a configuration with recalibrated BatchNorm statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rfquant_jax.data.grouped import grouped
from rfquant_jax.data.reader import PADDING_LABEL
from rfquant_jax.evaluate.network import batch_statistics_network, evaluation_network
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.layers import assign
from rfquant_jax.quant.statistics import active_statistics
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.devices import REPLICATED, SHARDED, Compiled, Programs


@dataclass(frozen=True)
class Accuracy:
    """Exact counts over a set of images.

    Attributes:
      top1, top5: numbers of correctly classified images (a non-finite output is wrong).
      loss: sum of cross-entropies.
      images: number of images.
    """

    top1: int
    top5: int
    loss: float
    images: int

    @property
    def top1_percent(self) -> float:
        return 100 * self.top1 / self.images

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % interval of the top-1 accuracy in percent (Wilson score interval)."""
        share, z2 = self.top1 / self.images, 1.959964**2
        centre = (share + z2 / (2 * self.images)) / (1 + z2 / self.images)
        spread = math.sqrt(share * (1 - share) / self.images + z2 / (4 * self.images**2))
        half = math.sqrt(z2) * spread / (1 + z2 / self.images)
        return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)

    @property
    def top5_percent(self) -> float:
        return 100 * self.top5 / self.images

    @property
    def mean_loss(self) -> float:
        return self.loss / self.images


@dataclass(frozen=True)
class Outcomes:
    """Per-image results of one network, in the order of the images.

    Attributes:
      top1, top5: bool[N], whether the label is the best class, or among the best five; a
        non-finite output is wrong.
      loss: float32[N], cross-entropies.
      labels: int32[N]; -1 marks images that are ignored: unreadable ones and padding of a batch.
    """

    top1: np.ndarray
    top5: np.ndarray
    loss: np.ndarray
    labels: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """bool[N], the images that are not ignored."""
        return self.labels != PADDING_LABEL

    @property
    def accuracy(self) -> Accuracy:
        """The counts over all images that are not ignored."""
        kept = self.counted
        top1, top5 = (int(np.sum(hits[kept])) for hits in (self.top1, self.top5))
        loss = float(np.sum(self.loss[kept], dtype=np.float64))
        return Accuracy(top1, top5, loss, int(kept.sum()))

    def first(self, images: int) -> Outcomes:
        """The results of the first `count` images."""
        columns = (self.top1, self.top5, self.loss, self.labels)
        return Outcomes(*(column[:images] for column in columns))

    def top1_by_class(self, classes: int) -> list[float | None]:
        """Top-1 accuracy of each class in percent; None for a class without images."""
        right = np.bincount(self.labels[self.top1 & self.counted], minlength=classes)
        images = np.bincount(self.labels[self.counted], minlength=classes)
        return [100 * float(r / n) if n else None for r, n in zip(right, images, strict=True)]


class Evaluator:
    """Compiled evaluation of one network on one mesh; configurations are data.

    Args:
      functional: a coupled network, or a plain one (whose configurations are int32[0, 2]).
      mesh: the devices. Batches are not sharded: each device processes whole ones, so that
        statistics do not depend on the number of devices.
      preprocess: maps a batch of images to the network's input.
    """

    def __init__(self, functional: FunctionalNetwork, mesh: Mesh, preprocess: Preprocess):
        self.functional, self.mesh, self.preprocess = functional, mesh, preprocess
        rep, shard = REPLICATED, SHARDED
        self._measure = Compiled(self._batch_statistics, mesh, (rep, shard, rep), shard)
        self._select = Compiled(self._running_statistics, mesh, (rep, rep, rep), rep)
        self._judge = Compiled(self._outcomes, mesh, (rep, rep, shard, rep), shard)
        self._predict = Compiled(self._probabilities, mesh, (rep, rep, shard, rep), shard)

    @property
    def traces(self) -> dict[str, int]:
        """How often each compiled function was traced."""
        return {"measure": self._measure.traces, "count": self._judge.traces}

    def recalibrate(
        self, params: Arrays, configuration: np.ndarray, batches: Iterable[np.ndarray]
    ) -> Arrays:
        """BatchNorm statistics of a configuration: the mean of batch statistics.

        Args:
          params: replicated.
          configuration: int32[L, 2].
          batches: this process's batches of images, of equal size, see `Pipeline.full`.

        Returns:
          `{"<BatchNorm>.mean" | ".var": float32[C]}`, averaged in float64 in the batches' order.
        """
        sums: dict[str, np.ndarray] = {}
        count = 0
        for images, real in grouped(batches, self.mesh):
            measured = devices.fetch(
                self._measure(params, devices.split(images, self.mesh), configuration)
            )
            for name, values in measured.items():
                total = np.sum(values[real], axis=0, dtype=np.float64)
                sums[name] = sums.get(name, 0.0) + total
            count += real.sum()
        return {name: (total / count).astype(np.float32) for name, total in sums.items()}

    def running_statistics(
        self, params: Arrays, stats: Arrays, configuration: np.ndarray
    ) -> Arrays:
        """The running statistics of a configuration's banks after training."""
        return jax.device_get(self._select(params, stats, configuration))

    def accuracy(
        self,
        params: Arrays,
        statistics: Arrays,
        configuration: np.ndarray,
        batches: Iterable[Arrays],
    ) -> Accuracy:
        """Exact accuracy over all images of `batches`; arguments as for `outcomes`."""
        return self.outcomes(params, statistics, configuration, batches).accuracy

    def outcomes(
        self,
        params: Arrays,
        statistics: Arrays,
        configuration: np.ndarray,
        batches: Iterable[Arrays],
    ) -> Outcomes:
        """Per-image results for all images of `batches`.

        Args:
          params: replicated.
          statistics: from `recalibrate` or `running_statistics`.
          configuration: int32[L, 2].
          batches: this process's {"image", "label"} batches of equal size, see `Pipeline.exact`;
            label -1 marks ignored images.

        Returns:
          one entry for each image, including ignored ones, so that equal indices in the results of
          two configurations refer to the same image.
        """
        parts = []
        for batch, real in grouped(batches, self.mesh):
            batch = devices.split(batch, self.mesh)
            found = devices.fetch(self._judge(params, statistics, batch, configuration))
            parts.append(found.reshape(len(real), -1, found.shape[-1])[real])
        loss, top1, top5, labels = np.concatenate(parts).reshape(-1, 4).T
        return Outcomes(top1 > 0, top5 > 0, loss, labels.astype(np.int32))

    def probabilities(
        self,
        params: Arrays,
        statistics: Arrays,
        configuration: np.ndarray,
        batches: Iterable[Arrays],
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Predictions for each batch; arguments as for `accuracy`.

        Yields:
          labels int32[B], unchanged, and probabilities float32[B, classes].
        """
        for batch, real in grouped(batches, self.mesh):
            batch = devices.split(batch, self.mesh)
            found = self._predict(params, statistics, batch["image"], configuration)
            labels, found = devices.fetch((batch["label"], found))
            for place in np.flatnonzero(real):
                yield (
                    np.split(labels, self.mesh.size)[place],
                    np.split(found, self.mesh.size)[place],
                )

    def programs(self, params: Arrays, batch: Arrays, configuration: np.ndarray) -> Programs:
        """The programs of `recalibrate` and `outcomes`, for a look at what XLA makes of them.

        Args:
          batch: {"image", "label"} of all devices together; shapes and dtypes suffice.

        Returns:
          "measure" and "count" as in `traces`: the compiled function, and arguments for
          `compiled.lower(*arguments)`.
        """
        of_measure = params, batch["image"], configuration
        measured = jax.eval_shape(self._measure.jitted, *of_measure)
        statistics = {
            name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in measured.items()
        }
        of_judge = params, statistics, batch, configuration
        return {"measure": (self._measure, of_measure), "count": (self._judge, of_judge)}

    # The functions below run per device, inside shard_map.

    def _batch_statistics(self, params, images, configuration):
        network = batch_statistics_network(self.functional, params, configuration)
        network(self.preprocess(images))
        return devices.add_axis(active_statistics(network))

    def _running_statistics(self, params, stats, configuration):
        network = self.functional.merge(params, stats)
        assign(network, configuration)
        return active_statistics(network)

    def _logits(self, params, statistics, images, configuration):
        network = evaluation_network(self.functional, params, statistics, configuration)
        return network(self.preprocess(images)).astype(jnp.float32)

    def _outcomes(self, params, statistics, batch, configuration):
        logits = self._logits(params, statistics, batch["image"], configuration)
        return _judged(logits, batch["label"])

    def _probabilities(self, params, statistics, images, configuration):
        return jax.nn.softmax(self._logits(params, statistics, images, configuration))


def _judged(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """float32[N, 4], per image: cross-entropy, top-1 and top-5 (1 if correct), label."""
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = (best == labels[:, None]) & finite[:, None]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    columns = [loss, hits[:, 0], jnp.any(hits, axis=-1), labels]
    return jnp.stack([column.astype(jnp.float32) for column in columns], axis=-1)
