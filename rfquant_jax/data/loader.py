"""Batches from sources: shuffled and augmented for training, exact for evaluation."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grain
import numpy as np

from rfquant_jax.data.reader import PADDING_LABEL, BadFiles, Complaint, Reader, Shape
from rfquant_jax.data.sources import Source, Subset
from rfquant_jax.data.transforms import Transform

T = TypeVar("T")


class TrainingBatches:
    """An endless, reshuffled, random-access sequence of batches.

    Batch `i` depends only on the seed and `i`, so a checkpoint only stores the step number. The
    incomplete last batch of an epoch is dropped.

    Args:
      batches: this process's batches of at least one epoch, see `Pipeline.training`.
      batch_size: global batch size over all processes.
      report: called with bad images.
      options: options of prefetching.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        batch_size: int,
        report: Callable[[Sequence[Complaint]], None],
        options: grain.ReadOptions,
    ):
        self.batch_size, self.per_epoch = batch_size, len(batches)
        self._batches, self._report, self._options = batches.repeat(), report, options

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch number `step`: {"image": uint8[B, H, W, C], "label": int32[B]}."""
        return _checked(self._batches[step], self._report)

    def starting_at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """All batches from this step on, with prefetching."""
        for batch in self._batches[step:].to_iter_dataset(self._options):
            yield _checked(batch, self._report)


@dataclass(frozen=True)
class Filler:
    """A dummy batch for a process without data in this group; its results are ignored.

    Attributes:
      batch: zeros of the shapes of real batches.
    """

    batch: Any


@dataclass
class Pipeline:
    """The data pipeline of a run, from sources to batches.

    Attributes:
      augmented: transform of training images.
      plain: transform of evaluation images.
      shape: (H, W, C) of the transformed images.
      threads: number of batches prepared in parallel.
      max_bad_fraction: fraction of a source's images that may be unreadable.
      log: called with messages about unreadable images.
      process, processes: index of this process, and number of processes.
      devices: devices per process; outside of training, each processes whole batches.
    """

    augmented: Transform
    plain: Transform
    shape: Shape
    threads: int
    max_bad_fraction: float
    log: Callable[[str], None]
    process: int = 0
    processes: int = 1
    devices: int = 1
    _reports: dict[int, BadFiles] = field(default_factory=dict)

    def training(
        self,
        source: Source,
        batch_size: int,
        *,
        seed: int,
        augment: bool = True,
        whole: bool = False,
    ) -> TrainingBatches:
        """Shuffled batches; each process gets its shard of every batch.

        Args:
          batch_size: global batch size, a multiple of the number of processes.
          seed: seed of shuffling and augmentation.
          whole: every process gets the same whole batches instead of its shard.
        """
        process, processes = (0, 1) if whole else (self.process, self.processes)
        reader = Reader(source, self.augmented if augment else self.plain)
        used = len(source) // batch_size * batch_size
        dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle().random_map(reader)
        batches = dataset[:used].batch(batch_size // processes, batch_fn=_collate)
        own = batches[process::processes]
        return TrainingBatches(own, batch_size, self._report(source), self._options)

    def exact(self, source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray] | Filler]:
        """Every image once, in order; the last batch is padded with images labelled -1.

        Each process gets the batches of its own devices, see `_shared`.
        """
        reader = Reader(source, self.plain, blank=self.shape)
        for batch in self._shared(np.arange(len(source)), reader, batch_size, source):
            yield batch if isinstance(batch, Filler) else fill_up(batch, batch_size)

    def full(
        self, source: Source, batch_size: int, limit: int, *, seed: int, augment: bool = False
    ) -> Iterator[np.ndarray | Filler]:
        """Full batches of images without labels, from the first `limit` images in a fixed random
        order.

        The last batch is completed with images from the beginning, so that a plain mean over
        batches covers every image. Each process gets the batches of its own devices.
        """
        count = min(limit, len(source))
        batch_size = min(batch_size, count)
        order = np.random.default_rng(seed).permutation(len(source))[:count]
        indices = np.resize(order, -(-count // batch_size) * batch_size)
        reader = Reader(source, self.augmented if augment else self.plain)
        for batch in self._shared(indices, reader, batch_size, source, seed):
            if isinstance(batch, Filler):
                yield Filler(batch.batch["image"])
            else:
                yield batch["image"]

    def _shared(self, indices, reader, batch_size, source, seed=0) -> Iterator[dict | Filler]:
        """Batches in order; each process gets those of its own devices.

        Batches are assigned to the devices of all processes in turn. All processes get the same
        number of batches, extended by fillers.
        """
        together = self.devices if self.processes > 1 else 1
        dataset = grain.MapDataset.source(indices.tolist()).seed(seed).random_map(reader)
        batches = dataset.batch(batch_size, batch_fn=_collate)
        taken = batches.batch(together, batch_fn=list)[self.process :: self.processes]
        missing = -(-len(batches) // (together * self.processes)) * together
        for group in taken.to_iter_dataset(self._options):
            for batch in group:
                yield _checked(batch, self._report(source))
            missing -= len(group)
        blank = {
            "image": np.zeros((batch_size, *self.shape), np.uint8),
            "label": np.full(batch_size, PADDING_LABEL, np.int32),
        }
        yield from itertools.repeat(Filler(blank), missing)

    @property
    def _options(self) -> grain.ReadOptions:
        # A batch can take hundreds of megabytes, so only a few finished ones are buffered.
        return grain.ReadOptions(self.threads, prefetch_buffer_size=self.threads + 2)

    def _report(self, source: Source) -> BadFiles:
        """The list of bad images of a data set, shared by its parts."""
        while isinstance(source, Subset):
            source = source.source
        if id(source) not in self._reports:
            self._reports[id(source)] = BadFiles(len(source), self.max_bad_fraction, self.log)
        return self._reports[id(source)]


def fill_up(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Pads a batch to `size` images with copies of its last image, labelled -1."""
    missing = size - len(batch["label"])
    if missing == 0:
        return batch
    filler = np.repeat(batch["image"][-1:], missing, axis=0)
    return {
        "image": np.concatenate([batch["image"], filler]),
        "label": np.concatenate([batch["label"], np.full(missing, PADDING_LABEL, np.int32)]),
    }


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yields the items, taking each one `depth` items before it is used.

    A transfer to a device is asynchronous, so a batch put early has arrived when it is used.
    """
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


def _collate(records) -> dict:
    return {
        "image": np.stack([r["image"] for r in records]),
        "label": np.asarray([r["label"] for r in records], np.int32),
        "bad": [complaint for r in records for complaint in r["bad"]],
    }


def _checked(batch: dict, report: Callable[[Sequence[Complaint]], None]) -> dict[str, np.ndarray]:
    if batch["bad"]:
        report(batch["bad"])
    return {"image": batch["image"], "label": batch["label"]}
