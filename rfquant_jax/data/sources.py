"""Random-access sources of uint8 images and integer labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rfquant_jax.errors import ArgumentError


class Source(Protocol):
    """Random access to records `{"image", "label"}`, optionally with a "name".

    The image is uint8[H, W, C], or the bytes of an encoded one. Reading a record may raise
    `BadImageError`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class ArraySource:
    """An in-memory source.

    Args:
      images: uint8[N, H, W, C].
      labels: int[N].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": self.labels[index]}


class Subset:
    """A subset of another source's records, by index."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.source[int(self.indices[index])]


@dataclass(frozen=True)
class DataSet:
    """A data set in three parts.

    Attributes:
      train: training images.
      held_out: training images reserved for search and recalibration.
      test: images used only in the final evaluation.
      class_names: in the order of the labels.
      image_shape: (H, W, C) of one image; 0 for sides that differ between images.
      remark: a message for the log, or "".
      val_fraction: fraction of the training images that became the test images; 0: the data set has
        test images of its own.
      training_version, test_version: change when the images change, as far as a reader can detect
        cheaply; `training_version` covers `train` and `held_out`.
    """

    train: Source
    held_out: Source
    test: Source
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    remark: str = ""
    training_version: str = ""
    test_version: str = ""
    val_fraction: float = 0.0

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class DataSettings(Protocol):
    """What a reader is told about its data set; the section `data` of a config has this form.

    Attributes:
      name: name of the data set.
      path: its folder, or "".
      num_classes: expected number of classes; 0: any.
      image_size: height and width of the network's input; 0: that of the images.
      search_fraction: fraction of the training images to hold out for the search.
      split_seed: seed of this split and of the next.
      val_fraction: fraction of the training images to hold out as test images, for data sets that
        have none; 0: none.
    """

    name: str
    path: str
    num_classes: int
    image_size: int
    search_fraction: float
    split_seed: int
    val_fraction: float


def split(
    source: Source,
    fraction: float,
    seed: int | Sequence[int],
    *,
    argument: str = "search_fraction",
) -> tuple[Subset, Subset]:
    """Splits a source at random into two subsets.

    Args:
      fraction: fraction of images in the second subset.
      seed: seed of the split; equal seeds give equal subsets.
      argument: name of the fraction in errors.

    Raises:
      ArgumentError: one subset would be empty.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    count = round(fraction * len(source))
    if not 0 < count < len(source):
        least = f"; from {1 / len(source):.2g} on it holds out one" if count == 0 else ""
        rule = f"must leave images on both sides of the split of {len(source)}{least}"
        raise ArgumentError(argument, fraction, rule)
    return Subset(source, np.sort(order[count:])), Subset(source, np.sort(order[:count]))


def hold_out_test(source: Source, settings: DataSettings) -> tuple[Subset, Subset]:
    """Splits off the test images of a data set that has none, before the search's images.

    The result depends on `val_fraction` and `split_seed` alone.

    Returns:
      the remaining images, and the test images.

    Raises:
      ArgumentError: one of both would be empty.
    """
    seed = (settings.split_seed, 1)  # another permutation than that of the search's split
    return split(source, settings.val_fraction, seed, argument="val_fraction")
