"""Images, from a source to a batch on its way to the devices."""

from __future__ import annotations

from collections.abc import Callable

from rfquant_jax.data.sources import DataSet, digits
from rfquant_jax.errors import ConfigError

SOURCES: dict[str, Callable[[float, int], DataSet]] = {"digits": digits}


def load(name: str, *, search_fraction: float, split_seed: int) -> DataSet:
    """The data set of this name, in its three parts.

    Args:
      name: a key of `SOURCES`.
      search_fraction: share of the training images held out for the search.
      split_seed: decides which ones.

    Raises:
      ConfigError: unknown name, or a share that leaves nothing on one side.
    """
    if name not in SOURCES:
        raise ConfigError("data.name", name, f"must be one of {', '.join(sorted(SOURCES))}")
    return SOURCES[name](search_fraction, split_seed)
