"""A flatbuffer that holds equal parts once.

References in a flatbuffer are offsets, and any number of them may lead to the same vector or table.
The zero points of kernels alone, 8 bytes for each channel, would be a seventh of a small network's
file.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Once:
    """A table of the schema that several others refer to; written when it is first packed.

    Args:
      table: an object with `Pack`, of the schema's object interface.
    """

    def __init__(self, table: Any):
        self._table, self._offset = table, None

    def Pack(self, builder: Any) -> int:  # noqa: N802, the schema's name
        if self._offset is None:
            self._offset = self._table.Pack(builder)
        return self._offset


def sharing_builder() -> Any:
    """A `flatbuffers.Builder` that writes equal vectors once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self):
            super().__init__(1024)
            self._vectors: dict[tuple, int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802, the package's name
            key = x.dtype.str, x.tobytes()
            if key not in self._vectors:
                self._vectors[key] = super().CreateNumpyVector(x)
            return self._vectors[key]

    return SharingBuilder()
