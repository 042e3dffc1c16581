"""Data pipeline: from image sources to batches."""

from __future__ import annotations

from collections.abc import Callable

from rfquant_jax.data import embedded
from rfquant_jax.data.embedded import digits
from rfquant_jax.data.folder import image_folder
from rfquant_jax.data.sources import DataSet, DataSettings
from rfquant_jax.data.tfds_source import PREFIX, tfds_data_set
from rfquant_jax.errors import ArgumentError, listed

# name -> reader
SOURCES: dict[str, Callable[[DataSettings], DataSet]] = {"digits": digits, "folder": image_folder}


def load(settings: DataSettings) -> DataSet:
    """Opens a data set in three parts: training, held-out and test images.

    Args:
      settings: `name` is a key of `SOURCES`, or "tfds:" and the name of a prepared TFDS data set.

    Raises:
      ArgumentError: unknown name, an error of the data set's reader, fewer than two classes, or a
        `val_fraction` for a data set that has test images.
    """
    loaded = _reader(settings.name)(settings)
    if loaded.val_fraction != settings.val_fraction:
        rule = f"must be 0, because {settings.name} has test images of its own"
        raise ArgumentError("val_fraction", settings.val_fraction, rule)
    if loaded.num_classes < 2:
        name, value = ("path", settings.path) if settings.path else ("data_set", settings.name)
        rule = f"must have two classes or more; the only one is {listed(loaded.class_names)}"
        raise ArgumentError(name, value, rule)
    return loaded


def _reader(name: str) -> Callable[[DataSettings], DataSet]:
    if name.startswith(PREFIX):
        return tfds_data_set
    if name not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise ArgumentError("data_set", name, f"must be {PREFIX}NAME or one of {known}")
    return SOURCES[name]


def described(settings: DataSettings) -> tuple[tuple[int, int, int], int] | None:
    """(H, W, C) of the images and the number of classes, without reading any image.

    Sides that differ between images are 0.

    Returns:
      None if this cannot be known without reading. It is known for a folder if `num_classes` and
      `image_size` are given.
    """
    if SOURCES.get(settings.name) is digits:
        return embedded.IMAGE_SHAPE, embedded.CLASSES
    if settings.name == "folder" and settings.num_classes > 0 and settings.image_size > 0:
        return (0, 0, 3), settings.num_classes  # images of folders have three channels
    return None
