"""Data pipeline: from image sources to batches."""

from __future__ import annotations

from collections.abc import Callable

from rfquant_jax.data import embedded
from rfquant_jax.data.embedded import digits
from rfquant_jax.data.folder import image_folder
from rfquant_jax.data.sources import DataSet, DataSettings
from rfquant_jax.data.tfds_source import PREFIX, tfds_data_set
from rfquant_jax.errors import ArgumentError

# name -> reader
SOURCES: dict[str, Callable[[DataSettings], DataSet]] = {"digits": digits, "folder": image_folder}


def load(settings: DataSettings) -> DataSet:
    """Opens a data set in three parts: training, held-out and test images.

    Args:
      settings: `name` is a key of `SOURCES`, or "tfds:" and the name of a prepared TFDS data set.

    Raises:
      ArgumentError: unknown name, or an error of the data set's reader.
    """
    if settings.name.startswith(PREFIX):
        return tfds_data_set(settings)
    if settings.name not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise ArgumentError("data_set", settings.name, f"must be {PREFIX}NAME or one of {known}")
    return SOURCES[settings.name](settings)


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
