"""The images of a search: those that propose configurations, and those that confirm them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfquant_jax.data.sources import Source, Subset, split

CROSS_BELOW = 2000  # held-out images; with fewer, both halves propose and both confirm


@dataclass(frozen=True)
class SearchImages:
    """The split of held-out images into proposing and confirming ones.

    The accuracy of a selected configuration is biased upwards on the images it was selected on.
    With many images, one part proposes and the other confirms. With few, each half proposes and the
    other half confirms, so that all images are used.

    Attributes:
      proposing: one part, or two halves.
      confirming: all images on which finalists are evaluated.
      unseen: for each proposing part bool[N], the confirming images outside of it.
    """

    proposing: tuple[Subset, ...]
    confirming: Source
    unseen: tuple[np.ndarray, ...]


def search_images(
    held_out: Source, confirm_fraction: float, seed: int, *, cross: bool
) -> SearchImages:
    """Splits held-out images.

    Args:
      held_out: images that training does not see.
      confirm_fraction: share of the confirming images, unless both halves do both.
      seed: seed of the split.
      cross: whether both halves propose and confirm if there are few images.

    Raises:
      ArgumentError: a part would be empty.
    """
    crossed = cross and len(held_out) < CROSS_BELOW
    fraction = 0.5 if crossed else confirm_fraction
    first, second = split(held_out, fraction, seed, argument="confirm_fraction")
    if not crossed:
        return SearchImages((first,), second, (np.ones(len(second), bool),))
    everything = np.arange(len(held_out))
    outside = tuple(~np.isin(everything, part.indices) for part in (first, second))
    return SearchImages((first, second), held_out, outside)
