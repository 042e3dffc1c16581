"""Tensors of codes in an ONNX graph, with channels that need not be in the network's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, TO_LAST, Nodes
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.model import LayerData

HOLE = -1


@dataclass(frozen=True)
class Codes:
    """A uint8 tensor [N, C, ...] with the codes that a layer reads.

    Attributes:
      name: of the tensor.
      zero: what stands for code 0.
      channels: C.
      order: the network's channel that each channel of the tensor holds, or HOLE for one that
        holds nothing; None where they are the network's channels as they are.
    """

    name: str
    zero: int
    channels: int
    order: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray | None:
        """Where the network's channels are in the tensor."""
        if self.order is None:
            return None
        channels = self.order[self.order != HOLE]
        places = np.empty(len(channels), np.int64)
        places[channels] = np.flatnonzero(self.order != HOLE)
        return places

    def to_json(self) -> dict:
        """Where the codes are: a tensor's name, its zero point, and each channel's place."""
        places = None if self.places is None else self.places.tolist()
        return {"tensor": self.name, "zero": self.zero, "places": places}

    def columns(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel [O, ..., I] for the tensor's channels; zeros for holes."""
        if self.order is None:
            return kernel
        found = kernel[..., np.maximum(self.order, 0)]
        found[..., self.order == HOLE] = 0
        return found

    def floats(self, nodes: Nodes) -> str:
        """The codes of the tensor's own channels in float32."""
        x = nodes.add("Cast", [self.name], to=TensorProto.FLOAT)
        return nodes.add("Sub", [x, nodes.constant(np.float32(self.zero))]) if self.zero else x

    def pick(self, nodes: Nodes, channels: np.ndarray | None = None) -> str:
        """The codes of some of the network's channels in float32, [N, C', H, W]; None: of all.

        A product with a matrix of zeros and ones, because that is exact and keeps the channels
        last, as onnxruntime has them here; a Gather would have the whole tensor transposed.
        """
        places = self.places
        if places is None and channels is None:
            return self.floats(nodes)
        places = np.arange(self.channels) if places is None else places
        places = places if channels is None else places[channels]
        one = nodes.constant(np.float32(1))
        x = nodes.add("Transpose", [self.name], perm=TO_LAST)
        x = nodes.add("DequantizeLinear", [x, one, nodes.constant(np.uint8(self.zero))])
        ones = np.zeros((self.channels, len(places)), np.int8)
        ones[places, np.arange(len(places))] = 1
        zero = nodes.constant(np.int8(0))
        picked = nodes.add("DequantizeLinear", [nodes.constant(ones), one, zero])
        return nodes.add("Transpose", [nodes.add("MatMul", [x, picked])], perm=TO_FIRST)


def clipped(nodes: Nodes, codes: str, target: Target, zero: int) -> str:
    """A uint8 tensor of codes, narrowed to the target's range."""
    low, high = target.low + zero, target.high + zero
    if (low, high) == (0, 255):
        return codes
    return nodes.add("Clip", [codes, *(nodes.constant(np.uint8(v)) for v in (low, high))])


def joined(nodes: Nodes, parts: Sequence[Codes]) -> Codes:
    """Tensors of different channels of one layer as one; each has an order."""
    order = np.concatenate([part.order for part in parts])
    name = parts[0].name
    if len(parts) > 1:
        name = nodes.add("Concat", [part.name for part in parts], axis=1)
    straight = np.array_equal(order, np.arange(len(order)))
    return Codes(name, parts[0].zero, len(order), None if straight else order)


def zero_of(data: LayerData) -> int:
    """What stands for code 0 of a layer's input, so that its smallest code is 0.

    A conversion to uint8 then clips at that end by itself. It also keeps the codes small: kernels
    for processors without dot products of int8 add two products of 8 bits in 16 bits.
    """
    return -data.input_range[0]
