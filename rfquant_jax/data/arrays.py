"""Images and labels given as arrays or as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rfquant_jax.data.loader import fill_up
from rfquant_jax.errors import ArgumentError

# An array [N, H, W, C], or batches: arrays [N, H, W, C] or mappings {"image": array}.
Images = Any
# A pair (images [N, H, W, C], labels int[N]), or batches: mappings {"image", "label"} or pairs.
LabelledImages = Any


def image_batches(images: Images, batch_size: int | None = None) -> list[np.ndarray]:
    """Batches of images, all of one size, in the given order.

    Args:
      images: an array [N, H, W, C], or batches of images.
      batch_size: maximum batch size for an array; its last batch is filled up with images from the
        beginning of the array. None: the array is one batch.

    Raises:
      ArgumentError: there are no images, or batches of several sizes.
    """
    if _is_array(images):
        whole = np.asarray(images)
        size = min(batch_size or len(whole), len(whole)) or 1
        places = np.resize(np.arange(len(whole)), -(-len(whole) // size) * size)
        return list(_checked([whole[part] for part in places.reshape(-1, size)]))
    return _checked([np.asarray(b["image"] if isinstance(b, Mapping) else b) for b in list(images)])


def labelled_batches(
    data: LabelledImages, batch_size: int, classes: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """All images once, in order, in batches of one size.

    Args:
      data: a pair (images [N, H, W, C], labels int[N]), or batches {"image", "label"}.
      batch_size: batch size for a pair.
      classes: number of logits, which labels must be below; None: not checked.

    Yields:
      {"image", "label"}; a smaller batch is filled up with images of label -1, which are ignored.

    Raises:
      ArgumentError: there are no images, the numbers of images and labels differ, a batch is
        larger than the first one, or a label is too large.
    """
    size = None
    for batch in _cut(data, batch_size) if is_pair(data) else data:
        batch = as_batch(batch)
        if classes is not None:
            check_labels(batch["label"], classes)
        size = size or len(batch["label"])
        if len(batch["label"]) > size:
            rule = f"a batch must not be larger than the first one, of {size} images"
            raise ArgumentError("data", len(batch["label"]), rule)
        yield fill_up(batch, size)
    if size is None:
        raise ArgumentError("data", data, "holds no images")


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Refuses labels for which a network has no logit.

    Args:
      labels: int[N]; negative ones mark images that are ignored.
      classes: number of logits.

    Raises:
      ArgumentError: names the largest label and the number of logits.
    """
    largest = int(np.max(labels, initial=-1))
    if largest >= classes:
        rule = f"has labels up to this one, but the network has {classes} logits"
        raise ArgumentError("data", largest, rule)


def as_batch(batch: Any) -> dict[str, np.ndarray]:
    """Converts a mapping or a pair of images and labels to {"image", "label": int32[N]}.

    Raises:
      ArgumentError: it is neither, or the numbers of images and labels differ.
    """
    if isinstance(batch, Mapping) and {"image", "label"} <= batch.keys():
        images, labels = batch["image"], batch["label"]
    elif is_pair(batch):
        images, labels = batch
    else:
        rule = 'must be {"image": ..., "label": ...} or a pair of images and labels'
        raise ArgumentError("batch", type(batch).__name__, rule)
    labels = np.asarray(labels, np.int32)
    if np.ndim(images) != 4 or labels.shape != np.shape(images)[:1]:
        rule = "must be images [N, H, W, C] and labels [N]"
        raise ArgumentError("batch", (np.shape(images), labels.shape), rule)
    return {"image": np.asarray(images), "label": labels}


def is_pair(data: Any) -> bool:
    """Whether the data are a pair (images, labels), not a list of two batches."""
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and np.ndim(data[0]) == 4
        and (np.ndim(data[1]) == 1)
    )


def _is_array(images: Any) -> bool:
    return isinstance(images, np.ndarray | jax.Array)


def _cut(pair: tuple, size: int) -> Iterator[tuple]:
    images, labels = (np.asarray(part) for part in pair)
    for start in range(0, len(images), size):
        yield images[start : start + size], labels[start : start + size]


def _checked(batches: Iterable[np.ndarray]) -> list[np.ndarray]:
    batches = list(batches)
    shapes = {batch.shape for batch in batches}
    if not batches or len(shapes) > 1 or batches[0].ndim != 4 or not len(batches[0]):
        rule = "must be images [N, H, W, C], in batches of one size"
        raise ArgumentError("images", sorted(shapes), rule)
    return batches
