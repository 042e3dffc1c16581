"""An integer model as ONNX: QuantizeLinear, Clip and DequantizeLinear around each layer.

QuantizeLinear rounds half to even and saturates at 8 bits. The following Clip restricts the codes
to any bit-width. This equals clipping before rounding, because the bounds are integers. Kernels are
stored as codes, with step sizes and BatchNorm folded into the scales of their DequantizeLinear.

The plain variant uses opset 13, int8 and uint8. The small variant uses opset 21, stores kernels of
up to 4 bits as int4 tensors, two codes per byte, and 4-bit inputs as int4 or uint4 where
onnxruntime can load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import Nodes, emit
from rfquant_jax.export.formats.onnx_sums import float_sum
from rfquant_jax.export.ir.graph import INPUT, Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import (
    AFFINE,
    CONSTANT,
    CONVOLUTION,
    DENSE,
    LAYERS,
    RESIDUAL,
)
from rfquant_jax.runtime.files import replacing

OUTPUT, CODES = "logits", "codes"  # a name, and a key of the metadata
_OPSETS = {False: (13, 8), True: (21, 10)}  # by `small`: opset, IR version


def write(path: Path, model: IntegerModel, *, small: bool) -> None:
    """Writes the model, checked by onnx.

    Its input is `image`, float32[batch, C, H, W], normalised; its output is `logits`.

    Args:
      small: whether to store kernels of up to 4 bits as int4.
    """
    made = make(model, small=small)
    with replacing(path) as temporary:
        temporary.write_bytes(made.SerializeToString())


def make(model: IntegerModel, *, small: bool) -> onnx.ModelProto:
    """The checked ONNX model; see `write`."""
    opset, ir_version = _OPSETS[small]
    nodes = Nodes(opset, brief=small)
    layers = _Layers(nodes, model, small)
    for node in model.graph.nodes:
        shapes = [model.graph.shapes.get(name, ()) for name in node.inputs]
        nodes.scope = f"{node.layer}/" if node.op in LAYERS else ""
        if node.op in LAYERS:
            layers.emit(node, shapes[0])
        elif node.op == CONSTANT:
            nodes.constants[node.output] = channels_first(model.constants[node.output][None])
        else:
            emit(nodes, node, shapes)
    return finished(nodes, model, ir_version, layers.read)


def finished(
    nodes: Nodes,
    model: IntegerModel,
    ir_version: int,
    codes: Mapping[str, Codes | Sequence[Codes]],
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """The checked ONNX model of some nodes, whose logits have the name used in the model's graph.

    Its metadata hold the model's `about` and the tensors of the codes, as JSON.

    Args:
      codes: codes of each layer's input, or of both inputs of a residual addition, by layer.
      domains: domains of non-standard operators, whose results are not checked.
    """
    nodes.scope = ""
    nodes.add("Identity", [model.graph.output], OUTPUT)
    graph = helper.make_graph(
        nodes.nodes,
        "integer_model",
        [_tensor(INPUT, model.graph.input_shape)],
        [_tensor(OUTPUT, model.graph.shapes[model.graph.output])],
        nodes.initializers,
    )
    made = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", nodes.opset),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ],
        ir_version=ir_version,
        producer_name="rfquant_jax",
    )
    about = dict(model.about) | {CODES: {layer: _where(held) for layer, held in codes.items()}}
    helper.set_model_props(made, {key: compact(value) for key, value in about.items()})
    onnx.checker.check_model(made, full_check=not domains)
    return made


def compact(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def _where(held: Codes | Sequence[Codes]) -> dict | list[dict]:
    return held.to_json() if isinstance(held, Codes) else [one.to_json() for one in held]


def _tensor(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    shape = (shape[-1], *shape[:-1]) if len(shape) == 3 else shape
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def channels_first(values: np.ndarray) -> np.ndarray:
    """Moves the channels of images or kernels before rows and columns."""
    return np.moveaxis(values, -1, 1) if values.ndim == 4 else values


def along(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Per-channel values, reshaped to broadcast against an image [H, W, C] or a vector."""
    return values.reshape(-1, 1, 1) if len(shape) == 3 else values


def emit_affine(nodes: Nodes, node: Node, data: LayerData, shape: tuple[int, ...]) -> None:
    """A separate BatchNorm: scale and shift of each channel."""
    scale, bias = (along(v.astype(np.float32), shape) for v in (data.scale, data.bias))
    scaled = nodes.add("Mul", [node.inputs[0], nodes.constant(scale)])
    nodes.add("Add", [scaled, nodes.constant(bias)], node.output)


class _Layers:
    """Emits convolutions, dense layers, affine maps and residual additions.

    Attributes:
      read: codes of each layer's input, by layer.
    """

    def __init__(self, nodes: Nodes, model: IntegerModel, small: bool):
        self.nodes, self.model, self.small = nodes, model, small
        self.read: dict[str, Codes | list[Codes]] = {}
        self._quantized: dict[tuple, Codes] = {}
        self._values: dict[str, str] = {}
        self._makers = {node.output: node for node in model.graph.nodes}

    def emit(self, node: Node, shape: tuple[int, ...]) -> None:
        data = self.model.layers[node.layer]
        if node.op == AFFINE:
            emit_affine(self.nodes, node, data, shape)
            return
        if node.op == RESIDUAL:
            self._residual(node, data)
            return
        x, weights = self._input(node, data), self._weights(node, data, len(shape))
        if node.op == CONVOLUTION:
            y = self.nodes.add("Conv", [x, weights], **convolution_options(node.attributes))
        elif len(shape) == 3:
            y = self.nodes.add("Conv", [x, weights])
        elif len(shape) == 1:
            y = self.nodes.add("Gemm", [x, weights], transB=1)
        else:
            y = self.nodes.add("MatMul", [x, weights])
        # A separate Add: onnxruntime rounds a layer's own bias to integer accumulators.
        bias = along(data.bias.astype(np.float32), shape)
        bias = self.nodes.constant(bias, f"{node.layer}.bias")
        self.nodes.add("Add", [y, bias], node.output)

    def _input(self, node: Node, data: LayerData) -> str:
        """The quantized input."""
        name = node.inputs[0]
        if not data.quantizes_input:
            return name
        codes = self.read[node.layer] = self._codes(name, data)
        if codes.name not in self._values:
            step = self.nodes.constant(np.asarray(data.input_step, np.float32))
            self._values[codes.name] = codes.values(self.nodes, step)
        return self._values[codes.name]

    def _residual(self, node: Node, data: LayerData) -> None:
        """The sum of both inputs' codes, which is exact, times the step size."""
        held = self.read[node.layer] = [self._codes(name, data) for name in node.inputs]
        float_sum(self.nodes, held, data.input_step, node.output)

    def _codes(self, name: str, data: LayerData) -> Codes:
        """The codes of a value, quantized once for all layers with equal quantizers."""
        key = (name, data.input_bits, data.input_signed, data.input_step)
        if key not in self._quantized:
            self._quantized[key] = self._quantize(name, data)
        return self._quantized[key]

    def _quantize(self, name: str, data: LayerData) -> Codes:
        exact = self.small and data.input_bits == 4 and self._may_have_four_bits(name)
        kinds = (ml_dtypes.uint4, ml_dtypes.int4) if exact else (np.uint8, np.int8)
        kind = kinds[data.input_signed]
        step = self.nodes.constant(np.asarray(data.input_step, np.float32))
        zero = self.nodes.constant(np.zeros((), kind))
        codes = self.nodes.add("QuantizeLinear", [name, step, zero])
        if not exact and data.input_bits < 8:
            low, high = (self.nodes.constant(np.asarray(v, kind)) for v in data.input_range)
            codes = self.nodes.add("Clip", [codes, low, high])
        return Codes(codes, 0, self.model.graph.shapes[name][-1], kind=kind)

    def _may_have_four_bits(self, name: str) -> bool:
        """Whether onnxruntime can load 4-bit codes of this value.

        It fails when it fuses a Clip into the quantizer across operations that commute with it. So
        4 bits are used only for outputs of layers and additions, with at most one ReLU after them.
        """
        maker = self._makers.get(name)
        if maker is not None and maker.op == "maximum" and 0 in maker.inputs:
            maker = self._makers.get(next(x for x in maker.inputs if isinstance(x, str)))
        return maker is not None and maker.op in (*LAYERS, "add")

    def _weights(self, node: Node, data: LayerData, rank: int) -> str:
        """The kernel in the layout of the operation, with the scale of each output folded in.

        Dense layers use (outputs, inputs) for vectors, a 1x1 convolution kernel for images, and
        (inputs, outputs) for other numbers of axes.
        """
        kernel, axis = channels_first(data.kernel), 0
        if node.op == DENSE and rank == 3:
            kernel = kernel[:, :, None, None]
        elif node.op == DENSE and rank > 1:
            kernel, axis = kernel.T, 1
        scale = (data.scale.astype(np.float64) / data.input_step).astype(np.float32)
        if data.kernel.dtype == np.float32:
            along = [-1 if i == axis else 1 for i in range(kernel.ndim)]
            return self.nodes.constant(kernel * scale.reshape(along), f"{node.layer}.kernel")
        kind = ml_dtypes.int4 if self.small and data.weight_bits <= 4 else np.int8
        operands = [
            self.nodes.constant(np.ascontiguousarray(kernel).astype(kind), f"{node.layer}.kernel"),
            self.nodes.constant(scale, f"{node.layer}.scale"),
            self.nodes.constant(np.zeros(len(scale), kind)),
        ]
        return self.nodes.add("DequantizeLinear", operands, axis=axis)


def convolution_options(attributes: Mapping) -> dict:
    """Attributes of ONNX's Conv."""
    (top, bottom), (left, right) = attributes["padding"]
    return {
        "kernel_shape": attributes["kernel"][1:3],
        "strides": attributes["strides"],
        "pads": [top, left, bottom, right],
        "dilations": attributes["dilation"],
        "group": attributes["groups"],
    }
