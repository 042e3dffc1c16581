"""Fixed images for measuring configurations, in batches of equal size, split into parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class ImageSets:
    """Batches of several parts, all of one size, so that one compiled program runs them.

    Attributes:
      batches: those of the first part, then those of the next.
      each: number of batches per part.
    """

    batches: tuple[Batch, ...]
    each: int

    def __getitem__(self, number: int) -> Batch:
        return self.batches[number % len(self.batches)]

    def numbers(self, part: int) -> range:
        """Indices of the batches of a part."""
        return range(part * self.each, (part + 1) * self.each)


def image_sets(parts: Sequence[Batch], batch_size: int) -> ImageSets:
    """Splits parts into batches.

    Args:
      parts: {"image", "label"} of each part, in random order.
      batch_size: maximum batch size. All batches have the same size, so a few images are dropped if
        a part is not divisible or is larger than another.
    """
    images = min(len(part["label"]) for part in parts)
    each = -(-images // batch_size)
    size = images // each
    batches = tuple(
        {name: values[k * size : (k + 1) * size] for name, values in part.items()}
        for part in parts
        for k in range(each)
    )
    return ImageSets(batches, each)


def shuffled_views(view: Callable[[int], Batch], count: int, limit: int, seed: int) -> Batch:
    """Images, extended by augmented copies if there are few, in random order.

    With few images, measurements are noisy. Divergences need no labels and are defined on any
    image, so augmented copies serve as additional images.

    Args:
      view: `view(0)` returns the images as in evaluation, `view(n)` augmented ones.
      count: maximum number of views.
      limit: maximum number of images; also truncates the first view.
      seed: seed of the order.
    """
    first = view(0)
    views = max(1, min(count, limit // len(first["label"])))
    together = [first] + [view(number) for number in range(1, views)]
    joined = {name: np.concatenate([v[name] for v in together]) for name in first}
    order = np.random.default_rng(seed).permutation(len(joined["label"]))[:limit]
    return {name: values[order] for name, values in joined.items()}
