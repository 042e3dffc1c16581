"""How much memory a failed program asked a device for, and how much was free."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import jax

_UNITS = {"bytes": 1, "B": 1} | {f"{p}iB": 2 ** (10 * n) for n, p in enumerate("KMGT", start=1)}
# As the allocators of GPUs and of PJRT say it.
_ASKED = re.compile(rf"allocate (?:request for )?([\d.]+) ?({'|'.join(_UNITS)})")


@dataclass(frozen=True)
class Shortage:
    """An allocation that failed.

    XLA allocates all temporary memory of a program at once. It grows with the batch.

    Attributes:
      asked: bytes of the allocation.
      free: bytes that the device had left.
    """

    asked: int
    free: int

    @property
    def factor(self) -> int:
        """The smallest divisor of the batch with which the allocation fits, at least 2."""
        return max(2, math.ceil(self.asked / self.free))


def shortage(error: Exception, devices: Iterable[jax.Device]) -> Shortage | None:
    """What an error of exhausted memory says; None if it is unknown, as on CPUs.

    Also None if the device has nothing left, so that no batch would fit.
    """
    found = _ASKED.search(str(error))
    stats = [device.memory_stats() or {} for device in devices]
    # Not every allocator has a limit.
    if not found or not stats or not all("bytes_limit" in own for own in stats):
        return None
    free = min(own["bytes_limit"] - own["bytes_in_use"] for own in stats)
    asked = int(float(found[1]) * _UNITS[found[2]])
    return Shortage(asked, free) if free > 0 else None
