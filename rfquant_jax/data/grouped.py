"""Groups whole batches, one per device, so that results do not depend on the number of devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rfquant_jax.data.loader import Filler
from rfquant_jax.runtime import devices


def share(batch_size: int, mesh: Mesh) -> int:
    """Images for each device, if a batch has this many images over all devices; rounded up."""
    return -(-batch_size // mesh.size)


def grouped(batches: Iterable, mesh: Mesh) -> Iterator[tuple[Any, np.ndarray]]:
    """Stacks one batch for each of this process's devices.

    Args:
      batches: this process's arrays or trees of arrays of equal size, see `Pipeline.full`.

    Yields:
      stacked batches, and bool[devices of all processes]: which entries are real batches.
    """
    together = mesh.local_mesh.size
    group: list = []
    for batch in batches:
        group.append(batch)
        if len(group) == together:
            yield _stack(group), _real(group)
            group = []
    if group:  # only in a single process: with several, the last group is already full
        group += [Filler(group[-1])] * (together - len(group))
        yield _stack(group), _real(group)


def _real(group: list) -> np.ndarray:
    return devices.gather(np.asarray([not isinstance(batch, Filler) for batch in group]))


def _stack(group: list):
    batches = [entry.batch if isinstance(entry, Filler) else entry for entry in group]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
