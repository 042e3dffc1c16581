"""Batches from sources: shuffled and augmented ones to train on, exact ones to evaluate on."""

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

    Batch `i` depends on the seed and `i` alone, so that a step number is all that a checkpoint
    needs to keep. An epoch's incomplete last batch is dropped.

    Args:
      batches: of one process, an epoch's or more, see `Pipeline.training`.
      batch_size: images in a batch of all processes together.
      report: takes complaints about bad images.
      options: of reading ahead.
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
        """All batches from this one on, prepared ahead of use."""
        for batch in self._batches[step:].to_iter_dataset(self._options):
            yield _checked(batch, self._report)


@dataclass(frozen=True)
class Filler:
    """Stands where another process has a batch and this one has none: nothing of it counts.

    Attributes:
      batch: of the shapes that the others have.
    """

    batch: Any


@dataclass
class Pipeline:
    """How the images of a run become batches.

    Attributes:
      augmented: what training images go through.
      plain: what images go through to be evaluated.
      shape: (H, W, C) of what comes out.
      threads: batches prepared side by side.
      max_bad_fraction: of the images of a source that may be unreadable.
      log: takes messages about those.
      process, processes: this one's number, and how many share the batches.
      devices: of each process, which take a whole batch each where nothing is trained.
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
        """Shuffled batches; each process gets its share of every batch.

        Args:
          batch_size: of all processes together; a multiple of their number.
          seed: of the shuffling and the augmentation.
          whole: every process gets whole batches, the same ones, instead of its share.
        """
        process, processes = (0, 1) if whole else (self.process, self.processes)
        reader = Reader(source, self.augmented if augment else self.plain)
        used = len(source) // batch_size * batch_size
        dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle().random_map(reader)
        batches = dataset[:used].batch(batch_size // processes, batch_fn=_collate)
        own = batches[process::processes]
        return TrainingBatches(own, batch_size, self._report(source), self._options)

    def exact(self, source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray] | Filler]:
        """Every image once, in order; the last batch is filled up with images labelled -1.

        Of several processes each gets the batches of its devices, see `_shared`.
        """
        reader = Reader(source, self.plain, blank=self.shape)
        for batch in self._shared(np.arange(len(source)), reader, batch_size, source):
            yield batch if isinstance(batch, Filler) else fill_up(batch, batch_size)

    def full(
        self, source: Source, batch_size: int, limit: int, *, seed: int, augment: bool = False
    ) -> Iterator[np.ndarray | Filler]:
        """Full batches of images alone, over the first `limit` ones of a fixed random order.

        The last batch is completed with images from the beginning, so that the plain average over
        the batches covers every image. Of several processes each gets the batches of its devices.
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
        """Batches in order; of several processes each gets those that its devices work on.

        The first devices of all processes take the first batches, one each; then they take the
        next ones. All processes get equally many: fillers stand for what is not there.
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
        # A batch can be hundreds of megabytes: only a few wait beside those in the making.
        return grain.ReadOptions(self.threads, prefetch_buffer_size=self.threads + 2)

    def _report(self, source: Source) -> BadFiles:
        """The one list of bad images of a data set, whichever part of it they are in."""
        while isinstance(source, Subset):
            source = source.source
        if id(source) not in self._reports:
            self._reports[id(source)] = BadFiles(len(source), self.max_bad_fraction, self.log)
        return self._reports[id(source)]


def fill_up(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Repeats the batch's last image, labelled -1, until it holds `size` images."""
    missing = size - len(batch["label"])
    if missing == 0:
        return batch
    filler = np.repeat(batch["image"][-1:], missing, axis=0)
    return {
        "image": np.concatenate([batch["image"], filler]),
        "label": np.concatenate([batch["label"], np.full(missing, PADDING_LABEL, np.int32)]),
    }


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items, each taken `depth` ones before it is used.

    Putting a batch on a device only starts the copy: one that was put ahead is there in time.
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
