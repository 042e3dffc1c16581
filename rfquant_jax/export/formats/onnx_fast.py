"""An integer model as ONNX for speed: int8 kernels of onnxruntime that compute our codes.

Every layer whose output is read by a single quantizer becomes

    DequantizeLinear(uint8, 1, z) -> Conv -> QuantizeLinear(1, z') -> Clip(uint8)

with DequantizeLinear(int8 kernel, M) and DequantizeLinear(int32 bias, M) as the other operands,
which onnxruntime fuses into one QLinearConv. The constants come from `requantize.solve`; clipping
activations are folded into the range of codes. Channels without a solution get constants whose
expected share of wrong codes is within an allowance, or are computed in a separate layer with a
float result. Layers with a float output use integer products, or exact float sums of integers.

A residual addition of codes becomes DequantizeLinear, Add, QuantizeLinear, once for every quantizer
that reads the sum; onnxruntime fuses these into QLinearAdd.

Only opset 13 and standard operators are used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from rfquant_jax.export.formats.onnx import channels_first as array_first
from rfquant_jax.export.formats.onnx import emit_affine, finished
from rfquant_jax.export.formats.onnx_allowance import Allowance
from rfquant_jax.export.formats.onnx_codes import Codes, bounded, joined, limited, zero_of
from rfquant_jax.export.formats.onnx_float_layers import float_layer, unquantized_layer
from rfquant_jax.export.formats.onnx_integer_layers import integer_layer, split
from rfquant_jax.export.formats.onnx_layout import channels_first, channels_last, fixed_last
from rfquant_jax.export.formats.onnx_nodes import Nodes, emit
from rfquant_jax.export.formats.onnx_residual import add_codes, moved, straight
from rfquant_jax.export.formats.onnx_sums import float_sum, rectified_sum
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.consumers import Consumers, Quantizer
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import AFFINE, CONSTANT, CONVOLUTION, LAYERS, RESIDUAL
from rfquant_jax.export.ir.requantize_sum import sum_multiplier
from rfquant_jax.export.ir.routes import bound_of
from rfquant_jax.runtime.files import replacing

_OPSET, _IR_VERSION = 13, 8


def write(path: Path, model: IntegerModel) -> None:
    """Writes the model; its input is `image`, float32[batch, C, H, W], its output `logits`."""
    made = make(model)
    with replacing(path) as temporary:
        temporary.write_bytes(made.SerializeToString())


def make(model: IntegerModel) -> onnx.ModelProto:
    """The checked ONNX model; see `write`."""
    builder = _Builder(model)
    for node in model.graph.nodes:
        builder.emit(node)
    return finished(builder.nodes, model, _IR_VERSION, builder.read)


class _Builder:
    """Emits the nodes of one model.

    Attributes:
      read: by layer, the codes of its input.
    """

    def __init__(self, model: IntegerModel):
        self.nodes = Nodes(_OPSET, brief=True)
        self.read: dict[str, Codes | list[Codes]] = {}
        self._model, self._consumers = model, Consumers(model)
        self._codes: dict[tuple[str, Quantizer], Codes] = {}
        self._skipped: set[str] = set()
        self._allowance = Allowance(model)
        self._floats: set[str] = set()  # outputs of float convolutions, and their activations

    def emit(self, node: Node) -> None:
        shapes = [self._model.graph.shapes.get(name, ()) for name in node.inputs]
        self.nodes.scope = f"{node.layer}/" if node.op in LAYERS else ""
        if node.op in LAYERS:
            self._layer(node, shapes[0])
        elif node.op == CONSTANT:
            held = self._model.constants[node.output][None]
            self.nodes.constants[node.output] = array_first(held)
        elif node.output not in self._skipped:
            emit(self.nodes, node, shapes)
            if bound_of(node) is not None and self._floats.intersection(node.inputs):
                self._floats.add(node.output)

    def _layer(self, node: Node, shape) -> None:
        data = self._model.layers[node.layer]
        if node.op == AFFINE:
            emit_affine(self.nodes, node, data, shape)
        elif node.op == RESIDUAL:
            self._residual(node, data)
        elif not data.quantizes_input:
            unquantized_layer(self.nodes, node, data, shape)
            if node.op == CONVOLUTION:
                self._floats.add(node.output)
        else:
            codes = self._input(node.inputs[0], data)
            if not self._integer(node, data, codes, shape):
                codes = self.read[node.layer] = channels_first(
                    self.nodes, bounded(self.nodes, codes)
                )
                float_layer(self.nodes, node, data, codes, shape, output=node.output)

    def _residual(self, node: Node, data: LayerData) -> None:
        """Adds codes once for every quantizer that reads the sum, and as floats if necessary."""
        held, nodes = [self._input(name, data) for name in node.inputs], self.nodes
        held = [straight(nodes, bounded(nodes, codes)) for codes in held]
        if len(self._model.graph.shapes[node.output]) == 3:
            held = [channels_last(nodes, codes) for codes in held]
        self.read[node.layer] = held
        consumers, floats = self._consumers.every(node)
        for one in consumers:
            zero, multiplier = zero_of(one.reader), sum_multiplier(data, one.target)
            if multiplier is None:
                floats = True
                continue
            y, value = add_codes(nodes, held, multiplier, one.target, zero), one.value
            if one.moves:
                y = moved(nodes, one.moves, y, self._model.graph.shapes)
                self._skipped |= {move.output for move in one.moves}
                value = one.moves[-1].output
            self._codes[value, Quantizer.of(one.reader)] = y
        if floats:
            self._float_sum(node, held, data.input_step)
        else:
            self._skipped |= {name for one in consumers for name in one.skipped}

    def _float_sum(self, node: Node, operands: list[Codes], step: float) -> None:
        clip = self._consumers.only_clip(node.output)
        if clip is not None and clip.op == "maximum" and bound_of(clip) == 0:
            rectified_sum(self.nodes, operands, step, clip.output)
            self._skipped.add(clip.output)
        else:
            float_sum(self.nodes, operands, step, node.output)

    def _input(self, name: str, data: LayerData) -> Codes:
        key = name, Quantizer.of(data)
        if key not in self._codes:
            target, zero = Target(data.input_step, *data.input_range), zero_of(data)
            shape, fixed = self._model.graph.shapes[name], name in self._floats
            tensor = fixed_last(self.nodes, name, shape) if fixed else name
            codes = self._quantize(tensor, target, zero, shape[-1])
            self._codes[key] = replace(codes, last=fixed)
        return self._codes[key]

    def _quantize(self, name: str, target: Target, zero: int, channels: int) -> Codes:
        """Quantizes a float tensor."""
        operands = [self.nodes.constant(v) for v in (np.float32(target.step), np.uint8(zero))]
        codes = self.nodes.add("QuantizeLinear", [name, *operands])
        return limited(Codes(codes, zero, channels), target)

    def _integer(self, node: Node, data: LayerData, codes: Codes, shape) -> bool:
        """Emits a layer as integer operations if its output is only read as codes."""
        consumer = self._consumers.of(node)
        if consumer is None or not data.is_integer or node.op != CONVOLUTION:
            return False
        part = split(node, data, consumer.target, self._allowance.share(node.output))
        if len(part.rest) == len(data.scale):
            return False
        self._allowance.spend(node.output, part.chance)
        target, zero = consumer.target, zero_of(consumer.reader)
        y, read = integer_layer(self.nodes, node, data, codes, part, target, zero)
        made, self.read[node.layer] = [y], read
        if len(part.rest):
            codes = channels_first(self.nodes, bounded(self.nodes, codes))
            y = float_layer(self.nodes, node, data, codes, shape, part.rest)
            y = self._quantize(y, target, zero, len(part.rest))
            made.append(replace(y, order=part.rest))
        self._codes[consumer.value, Quantizer.of(consumer.reader)] = joined(self.nodes, made)
        self._skipped |= set(consumer.skipped)
        return True
