"""An integer model as QONNX: `Quant` nodes with true bit-widths, for FINN and hls4ml.

    Div(x, input step) -> Relu -> Quant(1, 0, input bits)
        -> Conv(that, Quant(kernel codes, 1, 0, weight bits)) -> Mul(scale) -> Add(bias)

All scales of `Quant` nodes are 1, so convolutions multiply integers and their sums in float32 are
exact up to 2^24. All other operations are those of the integer runtime, in its order. `Quant` clips
and rounds half to even, like the integer runtime.

The Relu is there for unsigned codes only. It changes no code, but FINN converts an unsigned `Quant`
only together with a Relu in front of it. A ReLU of the network is left out where only unsigned
quantizers read its result.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from rfquant_jax.export.formats.onnx import (
    along,
    channels_first,
    convolution_options,
    emit_affine,
    finished,
)
from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, TO_LAST, Nodes, emit
from rfquant_jax.export.ir.consumers import Quantizer
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import AFFINE, CONSTANT, CONVOLUTION, LAYERS, RESIDUAL
from rfquant_jax.quant.lsq import FULL_PRECISION
from rfquant_jax.runtime.files import replacing

DOMAIN = "qonnx.custom_op.general"
_OPSET, _IR_VERSION = 13, 8


def write(path: Path, model: IntegerModel) -> None:
    """Writes the model; its input is `image`, float32[batch, C, H, W], its output `logits`."""
    made = make(model)
    with replacing(path) as temporary:
        temporary.write_bytes(made.SerializeToString())


def make(model: IntegerModel) -> onnx.ModelProto:
    """The ONNX model; see `write`."""
    layers = _Layers(model.stored())
    nodes = layers.nodes
    for node in model.graph.nodes:
        shapes = [model.graph.shapes.get(name, ()) for name in node.inputs]
        nodes.scope = f"{node.layer}/" if node.op in LAYERS else ""
        if node.op in LAYERS:
            layers.emit(node, shapes[0])
        elif layers.is_repeated(node):
            layers.skip(node)
        elif node.op == CONSTANT:
            nodes.constants[node.output] = channels_first(model.constants[node.output][None])
        else:
            emit(nodes, node, shapes)
    return finished(nodes, model, _IR_VERSION, layers.read, domains=(DOMAIN,))


class _Layers:
    """Emits layers with `Quant` nodes.

    Attributes:
      read: codes of each layer's input, or of both inputs of a residual addition, by layer.
    """

    def __init__(self, model: IntegerModel):
        self.nodes, self.model = Nodes(_OPSET), model
        self.read: dict[str, Codes | list[Codes]] = {}
        self._quantized: dict[tuple[str, Quantizer], str] = {}
        self._skipped: dict[str, str] = {}
        self._readers: dict[str, list[Node]] = {}
        for node in model.graph.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)

    def is_repeated(self, node: Node) -> bool:
        """Whether it is a ReLU whose result is only quantized to unsigned codes."""
        if node.op != "maximum" or 0 not in node.inputs or node.output == self.model.graph.output:
            return False
        readers = self._readers.get(node.output, [])
        found = [self.model.layers[n.layer] if n.op in LAYERS else None for n in readers]
        return all(d is not None and d.quantizes_input and not d.input_signed for d in found)

    def skip(self, node: Node) -> None:
        """Leaves out a node with one operand, which its readers then read."""
        (self._skipped[node.output],) = (x for x in node.inputs if isinstance(x, str))

    def emit(self, node: Node, shape: tuple[int, ...]) -> None:
        nodes, data = self.nodes, self.model.layers[node.layer]
        if node.op == AFFINE:
            emit_affine(nodes, node, data, shape)
            return
        operands = [self._input(name, data) for name in node.inputs]
        if data.quantizes_input:
            held = [Codes(x, 0, shape[-1]) for x in operands]
            self.read[node.layer] = held if node.op == RESIDUAL else held[0]
        scale = nodes.constant(along(data.scale, shape), f"{node.layer}.scale")
        if node.op == RESIDUAL:
            nodes.add("Mul", [nodes.add("Add", operands), scale], node.output)
            return
        (x,) = operands
        kernel = channels_first(data.kernel.astype(np.float32))
        if node.op == CONVOLUTION:
            weights = self._weights(node, data, kernel)
            y = nodes.add("Conv", [x, weights], **convolution_options(node.attributes))
        else:
            y = self._product(node, data, x, kernel, shape)
        y = nodes.add("Mul", [y, scale])
        bias = nodes.constant(along(data.bias, shape), f"{node.layer}.bias")
        nodes.add("Add", [y, bias], node.output)

    def _product(self, node: Node, data: LayerData, x: str, kernel: np.ndarray, shape) -> str:
        weights = self._weights(node, data, np.ascontiguousarray(kernel.T))
        if len(shape) != 3:
            return self.nodes.add("MatMul", [x, weights])
        x = self.nodes.add("Transpose", [x], perm=TO_LAST)
        y = self.nodes.add("MatMul", [x, weights])
        return self.nodes.add("Transpose", [y], perm=TO_FIRST)

    def _weights(self, node: Node, data: LayerData, kernel: np.ndarray) -> str:
        held = self.nodes.constant(kernel, f"{node.layer}.kernel")
        if data.weight_bits >= FULL_PRECISION:
            return held
        return self._quant(held, data.weight_bits, signed=True)

    def _input(self, name: str, data: LayerData) -> str:
        """The codes of a layer's input, or its values if they are not quantized."""
        key = name, Quantizer.of(data)
        if not data.quantizes_input:
            return name
        if key not in self._quantized:
            step = self.nodes.constant(np.float32(data.input_step))
            x = self.nodes.add("Div", [self._skipped.get(name, name), step])
            x = x if data.input_signed else self.nodes.add("Relu", [x])
            self._quantized[key] = self._quant(x, data.input_bits, signed=data.input_signed)
        return self._quantized[key]

    def _quant(self, x: str, bits: int, *, signed: bool) -> str:
        numbers = [self.nodes.constant(np.float32(v)) for v in (1, 0, bits)]
        options = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
        return self.nodes.add("Quant", [x, *numbers], domain=DOMAIN, **options)
