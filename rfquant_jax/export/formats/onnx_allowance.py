"""How many wrong codes a file for onnxruntime's int8 kernels may be expected to have."""

from __future__ import annotations

import math

from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.ir.operations import LAYERS

# Expected shares of wrong codes. The first is one of all codes, like `export.max_differing_codes`,
# and well below it. The second is one of a layer's codes; verification has no bound for these.
LARGEST_SHARE, LARGEST_SHARE_OF_LAYER = 2e-6, 2e-5


class Allowance:
    """The expected number of wrong codes that a file may have for one image.

    Attributes:
      left: what is left of it.
    """

    def __init__(self, model: IntegerModel):
        read = [
            math.prod(model.graph.shapes[name])
            for node in model.graph.nodes
            if node.op in LAYERS and model.layers[node.layer].quantizes_input
            for name in node.inputs
        ]
        self.left, self._shapes = LARGEST_SHARE * sum(read), model.graph.shapes

    def share(self, value: str) -> float:
        """The largest share of wrong codes in a layer's output."""
        return min(LARGEST_SHARE_OF_LAYER, self.left / math.prod(self._shapes[value]))

    def spend(self, value: str, share: float) -> None:
        """Subtracts the expected wrong codes in a layer's output."""
        self.left -= share * math.prod(self._shapes[value])
