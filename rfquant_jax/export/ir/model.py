"""The integer model of a network at one configuration, the source of every export format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rfquant_jax.errors import UserError
from rfquant_jax.export.ir.graph import Graph
from rfquant_jax.export.ir.packing import packed_size
from rfquant_jax.export.ir.shapes import LARGEST_FLOAT32, SMALLEST_FLOAT32
from rfquant_jax.quant.lsq import FULL_PRECISION

INT32_LIMIT = 2**31


@dataclass(frozen=True)
class LayerData:
    """The parameters of one layer; see `accumulate` for the computation.

        output = scale * accumulator + bias

    A residual addition has no kernel, and a scale and a bias [1] for all channels: its step size
    and 0. Both inputs have the same step size.

    Attributes:
      weight_bits, input_bits: 2 to 8, or 32 if the operand is not quantized.
      input_signed: whether the input's codes may be negative.
      input_step: step size of the input; its codes are round(clip(input / step, lowest, highest)).
      kernel: int8[O, KH, KW, I] or int8[O, I], codes; float32 with 32 bits. None in affine maps
        and residual additions.
      scale, bias: [O], float32 in files: step sizes, BatchNorm and the layer's bias combined.
      spread: mean and standard deviation [2, O] of the outputs on the images of the BatchNorm
        statistics; None if unknown. Not stored in files.
    """

    weight_bits: int
    input_bits: int
    input_signed: bool
    input_step: float
    kernel: np.ndarray | None
    scale: np.ndarray
    bias: np.ndarray
    spread: np.ndarray | None = None

    @property
    def quantizes_input(self) -> bool:
        return self.input_bits < FULL_PRECISION

    @property
    def is_integer(self) -> bool:
        """Whether the accumulators are integers."""
        return (
            self.kernel is not None and self.quantizes_input and self.weight_bits < FULL_PRECISION
        )

    @property
    def input_range(self) -> tuple[int, int]:
        """The input's smallest and largest code."""
        if self.input_signed:
            return -(1 << (self.input_bits - 1)), (1 << (self.input_bits - 1)) - 1
        return 0, (1 << self.input_bits) - 1

    @property
    def largest_accumulator(self) -> int:
        """An upper bound on the magnitude of all accumulators and partial sums."""
        weights = np.abs(self.kernel.astype(np.int64)).reshape(len(self.kernel), -1)
        return int(weights.sum(axis=1).max()) * max(map(abs, self.input_range))

    def stored(self) -> LayerData:
        """The layer as in files."""
        scale, bias = (values.astype(np.float32) for values in (self.scale, self.bias))
        return replace(self, scale=scale, bias=bias, spread=None)

    def equals(self, other: LayerData) -> bool:
        """Whether all values are equal."""
        mine, theirs = vars(self), vars(other)
        return all(np.array_equal(mine[name], theirs[name]) for name in mine)

    @property
    def kernel_bytes(self) -> int:
        """Bytes of the packed kernel."""
        return 0 if self.kernel is None else packed_size(self.kernel.size, self.weight_bits)


@dataclass(frozen=True)
class IntegerModel:
    """A graph with the parameters of its layers.

    Attributes:
      layers: parameters by name, for every layer of the graph.
      constants: other constant arrays, by node.
      about: origin of the model, JSON.
    """

    graph: Graph
    layers: Mapping[str, LayerData]
    constants: Mapping[str, np.ndarray]
    about: Mapping[str, object]

    @property
    def kernel_bytes(self) -> int:
        """Bytes of all packed kernels: the model size of the search, each rounded up."""
        return sum(layer.kernel_bytes for layer in self.layers.values())

    def stored(self) -> IntegerModel:
        """The model as in files: scales and biases in float32, and no spread."""
        return replace(self, layers={name: data.stored() for name, data in self.layers.items()})

    def equals(self, other: IntegerModel) -> bool:
        """Whether both models have equal graphs and parameters."""
        same = self.graph == other.graph and self.layers.keys() == other.layers.keys()
        return same and all(self.layers[name].equals(data) for name, data in other.layers.items())

    def check(self) -> None:
        """Checks that nothing overflows.

        Raises:
          UserError: an accumulator could exceed int32, or a value is not finite in float32.
        """
        for name, values in self.constants.items():
            if not np.isfinite(values).all():
                raise UserError(f"constant {name} is not finite")
        for name, layer in self.layers.items():
            if layer.is_integer and layer.largest_accumulator >= INT32_LIMIT:
                raise UserError(f"layer {name}: its accumulators do not fit into 32 bits")
            if not (np.isfinite(layer.scale).all() and np.isfinite(layer.bias).all()):
                raise UserError(f"layer {name}: its scale or bias is not finite")
            if layer.kernel is not None and not np.isfinite(layer.kernel).all():
                raise UserError(f"layer {name}: its kernel is not finite")
            if not layer.quantizes_input and layer.input_step != 1:
                raise UserError(f"layer {name}: its step size must be 1, as nothing is quantized")
            if not SMALLEST_FLOAT32 <= layer.input_step <= LARGEST_FLOAT32:
                raise UserError(
                    f"layer {name}: its step size {layer.input_step} is not positive, or none of "
                    "float32"
                )
