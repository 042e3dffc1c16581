"""Batches from sources: shuffled and augmented ones to train on, exact ones to evaluate on."""

from __future__ import annotations

from collections.abc import Iterator

import grain
import numpy as np

from rfquant_jax.data.sources import Part, Source

PADDING_LABEL = -1  # marks the images that only fill up the last batch


def _collate(records) -> dict[str, np.ndarray]:
    return {
        "image": np.stack([r["image"] for r in records]),
        "label": np.asarray([r["label"] for r in records], np.int32),
    }


class TrainingBatches:
    """An endless, reshuffled, random-access sequence of batches.

    Batch `i` depends on the seed and `i` alone, so that a step number is all that a checkpoint
    needs to keep. An epoch's incomplete last batch is dropped.

    Args:
      source: the images.
      batch_size: images in a batch.
      augmentation: a grain transformation of one record, or None.
      seed: of the shuffling and the augmentation.
      threads: how many batches are prepared side by side while one is consumed.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        augmentation: grain.transforms.RandomMap | None,
        seed: int,
        threads: int = 1,
    ):
        self.batch_size = batch_size
        self.per_epoch = len(source) // batch_size
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        dataset = grain.MapDataset.source(source).seed(seed).shuffle()
        if augmentation is not None:
            dataset = dataset.random_map(augmentation)
        self._batches = dataset.batch(batch_size, drop_remainder=True, batch_fn=_collate).repeat()

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch number `step`: {"image": uint8[B, H, W, C], "label": int32[B]}."""
        return self._batches[step]

    def starting_at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """All batches from this one on, prepared ahead of use."""
        return iter(self._batches[step:].to_iter_dataset(self._options))


def exact_batches(
    source: Source, batch_size: int, *, threads: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Every image once, in order; the last batch is filled up with images labelled -1."""
    dataset = grain.MapDataset.source(source).batch(batch_size, batch_fn=_collate)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    for batch in dataset.to_iter_dataset(options):
        yield fill_up(batch, batch_size)


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


def full_batches(
    source: Source,
    batch_size: int,
    limit: int,
    *,
    augmentation: grain.transforms.RandomMap | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Full batches of images alone, over the first `limit` ones of a fixed random order.

    The last batch is completed with images from the beginning, so that the plain average over the
    batches covers every image.
    """
    count = min(limit, len(source))
    batch_size = min(batch_size, count)
    order = np.random.default_rng(seed).permutation(len(source))[:count]
    batches = -(-count // batch_size)
    indices = np.resize(order, batches * batch_size)
    dataset = grain.MapDataset.source(Part(source, indices)).seed(seed)
    if augmentation is not None:
        dataset = dataset.random_map(augmentation)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    for batch in dataset.batch(batch_size, batch_fn=_collate).to_iter_dataset(options):
        yield batch["image"]
