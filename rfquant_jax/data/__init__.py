"""Data pipeline: from image sources to batches."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

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
