"""The values of a traced network, and the error for what an integer model cannot express."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.errors import UserError


class UnsupportedNetwork(UserError):  # noqa: N818 - the error is in what it says
    """An integer model cannot express the network.

    Args:
      reason: what it cannot express.
      place: file, line and function of the network's code, if known.
    """

    def __init__(self, reason: str, place: str = ""):
        self.reason, self.place = reason, place
        at = f", at {place}" if place else ""
        super().__init__(f"this network cannot be exported: {reason}{at}")


@dataclass(frozen=True)
class Value:
    """A value that depends on the images.

    Axes may have length 1 where the traced array is longer; consumers then broadcast it.

    Attributes:
      name: of the stored array, whose first axis is that of the images.
      shape: of the traced array.
      order: position in the stored array of each traced axis; None: the same. A transposition only
        changes this, because some move the axis of the images away and back.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None

    @property
    def stored(self) -> tuple[int, ...]:
        """Position in the stored array of each traced axis."""
        return self.order or tuple(range(len(self.shape)))


Operand = Value | np.ndarray


def permuted(x: Value, axes: Sequence[int]) -> Value:
    """A value with traced axis i at position `axes[i]` of `x`; no node is added."""
    order = tuple(x.stored[axis] for axis in axes)
    shape = tuple(x.shape[axis] for axis in axes)
    return Value(x.name, shape, None if order == tuple(range(len(order))) else order)
