"""Tensors of codes in an ONNX graph, whose channels may be reordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, TO_LAST, Nodes
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.model import LayerData

HOLE = -1
# In metadata: zero point, index of each channel, factor, and layout of a tensor of codes.
DEFAULTS = {"zero": 0, "places": None, "gain": 1, "channels_last": False}


@dataclass(frozen=True)
class Codes:
    """A tensor [N, C, ...] with the codes that a layer reads.

    Attributes:
      name: name of the tensor.
      zero: zero point, the value of code 0.
      channels: C.
      order: for each channel of the tensor, the network's channel it holds, or HOLE for an unused
        one; None if the order is the network's.
      kind: dtype of the tensor.
      gain: factor of the stored codes.
      low, top: the stored values of the smallest and the largest code. Values beyond them are still
        to be clipped, see `bounded`.
      last: whether the tensor is [N, H, W, C].
    """

    name: str
    zero: int
    channels: int
    order: np.ndarray | None = None
    kind: type = np.uint8
    gain: int = 1
    low: int = 0
    top: int = 255
    last: bool = False

    @property
    def places(self) -> np.ndarray | None:
        """Indices of the network's channels in the tensor."""
        if self.order is None:
            return None
        channels = self.order[self.order != HOLE]
        places = np.empty(len(channels), np.int64)
        places[channels] = np.flatnonzero(self.order != HOLE)
        return places

    def to_json(self) -> dict:
        """The location of the codes: the tensor, and what differs from `DEFAULTS`."""
        places = None if self.places is None else self.places.tolist()
        held = {"zero": self.zero, "places": places, "gain": self.gain, "channels_last": self.last}
        return {"tensor": self.name} | {k: v for k, v in held.items() if v != DEFAULTS[k]}

    def columns(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel [O, ..., I] reordered for the tensor's channels; zeros for holes."""
        if self.order is None:
            return kernel
        found = kernel[..., np.maximum(self.order, 0)]
        found[..., self.order == HOLE] = 0
        return found

    def values(self, nodes: Nodes, step: str) -> str:
        """The values of the codes at a step size, the name of a constant."""
        zero = nodes.constant(np.asarray(self.zero, self.kind))
        return nodes.add("DequantizeLinear", [self.name, step, zero])

    def floats(self, nodes: Nodes) -> str:
        """The codes of all channels of the tensor in float32."""
        x = nodes.add("Cast", [self.name], to=TensorProto.FLOAT)
        return nodes.add("Sub", [x, nodes.constant(np.float32(self.zero))]) if self.zero else x

    def pick(self, nodes: Nodes, channels: np.ndarray | None = None) -> str:
        """The codes of some of the network's channels in float32, [N, C', H, W]; None: all.

        Computed as a product with a 0-1 matrix, which is exact and keeps onnxruntime's
        channels-last layout; a Gather would transpose the whole tensor.
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


def limited(codes: Codes, target: Target) -> Codes:
    """uint8 codes whose values beyond the target's range are to be clipped."""
    return replace(codes, low=target.low + codes.zero, top=target.high + codes.zero)


def bounded(nodes: Nodes, codes: Codes) -> Codes:
    """The codes, clipped where necessary."""
    if (codes.low, codes.top) == (0, 255):
        return codes
    limits = [nodes.constant(np.uint8(v)) for v in (codes.low, codes.top)]
    return replace(codes, name=nodes.once("Clip", [codes.name, *limits]), low=0, top=255)


def multiplied(nodes: Nodes, codes: Codes, gain: int) -> Codes:
    """The codes times a factor, in place of a Clip where one is due.

    onnxruntime fuses all three nodes into a table lookup, because of the activation, which changes
    nothing. Its BitShift takes eight times as long. The product of `top` is stored as 255, so that
    larger values saturate.
    """
    if gain == 1 or codes.low > 0:
        codes = bounded(nodes, codes)
    if gain == 1:
        return codes
    zero = codes.zero * gain if codes.top == 255 else 255 - gain * (codes.top - codes.zero)
    steps = [(np.float32(1), np.uint8(codes.zero)), (np.float32(1 / gain), np.uint8(zero))]
    first, second = ([nodes.constant(v) for v in step] for step in steps)
    x = nodes.once("DequantizeLinear", [codes.name, *first])
    x = nodes.once("QuantizeLinear", [nodes.once("LeakyRelu", [x], alpha=1.0), *second])
    return replace(codes, name=x, zero=zero, gain=gain, top=255)


def joined(nodes: Nodes, parts: Sequence[Codes]) -> Codes:
    """Concatenates tensors that hold different channels of one layer."""
    order = np.concatenate([part.order for part in parts])
    name = parts[0].name
    if len(parts) > 1:
        name = nodes.add("Concat", [part.name for part in parts], axis=1)
    straight = np.array_equal(order, np.arange(len(order)))
    channels, order = len(order), None if straight else order
    return replace(parts[0], name=name, channels=channels, order=order)


def zero_of(data: LayerData) -> int:
    """The zero point of a layer's input, chosen so that the smallest code is stored as 0.

    The conversion to uint8 then clips at that end by itself. Small stored codes also avoid
    overflow: kernels for CPUs without int8 dot products add two 8-bit products in 16 bits.
    """
    return -data.input_range[0]
