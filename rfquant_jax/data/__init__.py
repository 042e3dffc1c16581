"""Data pipeline: from image sources to batches."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from rfquant_jax.data import embedded
from rfquant_jax.data.embedded import digits
from rfquant_jax.data.folder import image_folder
from rfquant_jax.data.sources import DataSet
from rfquant_jax.data.tfds_source import PREFIX, tfds_data_set
from rfquant_jax.errors import ConfigError

# name -> reader, called with the config section `data`
SOURCES: dict[str, Callable[[ConfigDict], DataSet]] = {"digits": digits, "folder": image_folder}


def load(config: ConfigDict) -> DataSet:
    """The data set named in the config, in three parts.

    Args:
      config: the config section `data`; `name` is a key of `SOURCES`, or "tfds:" and the name of a
        prepared TFDS data set.

    Raises:
      ConfigError: unknown name, or an error of the data set's reader.
    """
    if config.name.startswith(PREFIX):
        return tfds_data_set(config)
    if config.name not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise ConfigError("data.name", config.name, f"must be {PREFIX}NAME or one of {known}")
    return SOURCES[config.name](config)


def described(config: ConfigDict) -> tuple[tuple[int, int, int], int] | None:
    """(H, W, C) of the images, 0 for sides that differ, and the number of classes, without reading.

    Args:
      config: the config's section `data`.

    Returns:
      None where only the images tell. For a folder the config says it, with `num_classes` and
      `image_size`.
    """
    if SOURCES.get(config.name) is digits:
        return embedded.IMAGE_SHAPE, embedded.CLASSES
    if config.name == "folder" and config.num_classes > 0 and config.image_size > 0:
        return (0, 0, 3), config.num_classes  # images of folders have three channels
    return None
