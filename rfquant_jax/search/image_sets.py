"""Fixed images that configurations are measured on, in batches of one size, by parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class ImageSets:
    """Batches of several parts, all of one size, so that one compiled program serves them.

    Attributes:
      batches: of the first part, then of the next.
      each: batches of a part.
    """

    batches: tuple[Batch, ...]
    each: int

    def __getitem__(self, number: int) -> Batch:
        return self.batches[number % len(self.batches)]

    def numbers(self, part: int) -> range:
        """The batches of a part."""
        return range(part * self.each, (part + 1) * self.each)


def image_sets(parts: Sequence[Batch], batch_size: int) -> ImageSets:
    """Cuts parts into batches.

    Args:
      parts: {"image", "label"} of each part, in random order.
      batch_size: of images, at most. Batches are as large as their number allows; a few images are
        left out where a part cannot be divided, or is larger than another.
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
    """Images and, where there are few, augmented copies of them, in random order.

    Few images say little of a configuration. Divergences need no labels and compare networks on any
    image, so that augmented copies count as further ones.

    Args:
      view: `view(0)` gives the images as evaluation sees them, `view(n)` augmented ones.
      count: of views at most.
      limit: of images at most; the first view is cut where it alone is larger.
      seed: of the order.
    """
    first = view(0)
    views = max(1, min(count, limit // len(first["label"])))
    together = [first] + [view(number) for number in range(1, views)]
    joined = {name: np.concatenate([v[name] for v in together]) for name in first}
    order = np.random.default_rng(seed).permutation(len(joined["label"]))[:limit]
    return {name: values[order] for name, values in joined.items()}
