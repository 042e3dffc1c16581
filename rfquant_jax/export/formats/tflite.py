"""An integer model for LiteRT (TensorFlow Lite): int8 convolutions with exactly our codes.

The constants k, B, M of `requantize.solve` become an int8 kernel, an int32 bias and scales: the
runtime computes M as input scale * kernel scale / output scale. The scale of codes can be chosen.
Codes read only by integer kernels use the scale at which an activation clips them: 6 / (2^bits - 1)
for RELU6, 1 / 2^(bits - 1) for RELU_N1_TO_1; all others use 1.

Layers with a float output are float convolutions of integers, so their sums are exact. Their
kernels are stored as int8 and dequantized at load time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.export.formats import tflite_nodes
from rfquant_jax.export.formats.tflite_graph import FlatGraph
from rfquant_jax.export.ir.consumers import Consumer, Consumers, Quantizer
from rfquant_jax.export.ir.graph import INPUT, Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import AFFINE, CONSTANT, CONVOLUTION, LAYERS, RESIDUAL
from rfquant_jax.export.ir.requantize import Requantization, solve
from rfquant_jax.runtime.files import replacing

SMALLEST_WEIGHT = -127  # smallest int8 kernel value in this format
CODES = "codes"  # key of the metadata


def write(path: Path, model: IntegerModel) -> None:
    """Writes the model, which maps `image`, float32[batch, H, W, C], normalised, to `logits`.

    Raises:
      UserError: the package with the schema is not installed.
    """
    content = make(model)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def make(model: IntegerModel) -> bytes:
    """The flatbuffer; see `write`."""
    builder = _Builder(model.stored())
    for node in model.graph.nodes:
        builder.emit(node)
    read = {layer: [one.to_json() for one in held] for layer, held in builder.read.items()}
    about = dict(model.about) | {CODES: read}
    values = builder.values
    return builder.flat.serialize(values[INPUT], values[model.graph.output], about)


@dataclass(frozen=True)
class Codes:
    """An int8 tensor of codes.

    Attributes:
      tensor: index of the tensor.
      scale, zero: its quantization; `zero` is the value of code 0.
    """

    tensor: int
    scale: np.float32
    zero: int

    def to_json(self) -> list[int]:
        """The location of the codes in the metadata: tensor, zero point."""
        return [self.tensor, self.zero]


def zero_of(data: LayerData) -> int:
    """The zero point: aligns one end of the codes' range with an end of int8's range."""
    return 127 - data.input_range[1] if data.input_signed else -128


class _Builder:
    """Emits the operators of one model.

    Attributes:
      values: tensors of float values by name.
      read: codes of each input of a layer, by layer.
    """

    def __init__(self, model: IntegerModel):
        self.flat, self.model = FlatGraph(), model
        self.values = {INPUT: self.flat.value(model.graph.input_shape, name=INPUT)}
        self.read: dict[str, list[Codes]] = {}
        self._consumers = Consumers(model)
        self._codes: dict[tuple[str, Quantizer], Codes] = {}
        self._larger: dict[tuple[int, int], Codes] = {}
        self._skipped: set[str] = set()
        found = {n.layer: self._solution(n) for n in model.graph.layer_nodes}
        self._solutions = {name: one for name, one in found.items() if one is not None}

    def _solution(self, node: Node) -> Requantization | None:
        """The constants of a layer if all its channels have a solution."""
        data, consumer = self.model.layers[node.layer], self._consumers.of(node)
        if consumer is None or node.op != CONVOLUTION or not data.is_integer:
            return None
        for gain in (1, 1 << (8 - data.input_bits)):
            solution = solve(data, consumer.target, SMALLEST_WEIGHT, gain)
            if solution.solved.all():
                return solution
        return None

    def emit(self, node: Node) -> None:
        shapes = self.model.graph.shapes
        if node.op == CONSTANT:
            self.values[node.output] = self.flat.constant(self.model.constants[node.output][None])
        elif node.op == AFFINE:
            data = self.model.layers[node.layer]
            x, shape = self.values[node.inputs[0]], shapes[node.output]
            self.values[node.output] = self._affine(x, data, shape)
        elif node.op == RESIDUAL:
            self._residual(node)
        elif node.op in LAYERS:
            self._layer(node)
        elif node.output not in self._skipped:
            tflite_nodes.emit(self.flat, node, shapes, self.values)

    def _layer(self, node: Node) -> None:
        data, shapes = self.model.layers[node.layer], self.model.graph.shapes
        x, shape = node.inputs[0], shapes[node.inputs[0]]
        if not data.quantizes_input:
            y = self._float_layer(node, data, self.values[x], shape)
        else:
            codes = self._input(x, data)
            self.read[node.layer] = [codes]
            if node.layer in self._solutions:
                self._integer_layer(node, data, codes, shape)
                return
            y = self._float_layer(node, data, self._floats(codes, shape), shape)
        self.values[node.output] = self._affine(y, data, shapes[node.output])

    def _floats(self, codes: Codes, shape) -> int:
        """Dequantized codes, whose scale is 1: integers."""
        return self.flat.add("DEQUANTIZE", [codes.tensor], self.flat.value(shape))

    def _residual(self, node: Node) -> None:
        """The sum of both inputs' codes, which is exact in float32, times the step size.

        LiteRT's integer addition rounds in fixed point, which changes codes.
        """
        flat, data = self.flat, self.model.layers[node.layer]
        shape, none = self.model.graph.shapes[node.output], flat.activation("NONE")
        held = self.read[node.layer] = [self._input(name, data) for name in node.inputs]
        operands = [self._floats(codes, shape) for codes in held]
        total, y = flat.value(shape, name=node.layer), flat.value(shape)
        flat.add("ADD", operands, total, kind="AddOptions", fusedActivationFunction=none)
        step = flat.constant(np.float32([data.input_step]))
        flat.add("MUL", [total, step], y, kind="MulOptions", fusedActivationFunction=none)
        self.values[node.output] = y

    def _affine(self, x: int, data: LayerData, shape) -> int:
        """x * scale + bias in two operations, rounded like the integer runtime."""
        flat, none = self.flat, self.flat.activation("NONE")
        scale, bias = (flat.constant(v.astype(np.float32)) for v in (data.scale, data.bias))
        y = flat.value(shape)
        flat.add("MUL", [x, scale], y, kind="MulOptions", fusedActivationFunction=none)
        y, x = flat.value(shape), y
        return flat.add("ADD", [x, bias], y, kind="AddOptions", fusedActivationFunction=none)

    def _input(self, name: str, data: LayerData) -> Codes:
        """The codes of a value; with scale 1 if quantized from floats."""
        key = name, Quantizer.of(data)
        if key not in self._codes:
            flat, shape = self.flat, self.model.graph.shapes[name]
            step, none = flat.constant(np.float32([data.input_step])), flat.activation("NONE")
            x = flat.value(shape)
            divided = [self.values[name], step]
            flat.add("DIV", divided, x, kind="DivOptions", fusedActivationFunction=none)
            x, zero = self._within(x, data, shape), zero_of(data)
            codes = flat.value(shape, "int8", 1.0, zero)
            flat.add("QUANTIZE", [x], codes, kind="QuantizeOptions")
            self._codes[key] = Codes(codes, np.float32(1), zero)
        return self._codes[key]

    def _within(self, x: int, data: LayerData, shape) -> int:
        """Clips to the range of codes, at the ends where int8 does not end; see `zero_of`."""
        flat = self.flat
        for op, bound, end in zip(
            ("MAXIMUM", "MINIMUM"), data.input_range, (-128, 127), strict=True
        ):
            if bound + zero_of(data) != end:
                limit = flat.constant(np.float32([bound]))
                operands, x = [x, limit], flat.value(shape)
                flat.add(op, operands, x, kind="MaximumMinimumOptions")
        return x

    def _float_layer(self, node: Node, data: LayerData, x: int, shape) -> int:
        """The accumulators of a layer."""
        flat, kernel = self.flat, data.kernel
        y = flat.value(self.model.graph.shapes[node.output], name=node.layer)
        if node.op == CONVOLUTION:
            kernel, _ = tflite_nodes.kernel_of(node, kernel)
        if kernel.dtype == np.float32:
            weights = flat.constant(kernel)
        else:
            weights = flat.constant_floats(kernel)
        bias = flat.constant(np.zeros(len(data.scale), np.float32))
        if node.op == CONVOLUTION:
            return tflite_nodes.convolution(flat, node, [x, weights, bias], shape, y)
        options = {"keepNumDims": True, "fusedActivationFunction": flat.activation("NONE")}
        return flat.add(
            "FULLY_CONNECTED", [x, weights, bias], y, kind="FullyConnectedOptions", **options
        )

    def _integer_layer(self, node: Node, data: LayerData, codes: Codes, shape) -> None:
        consumer, solution = self._consumers.of(node), self._solutions[node.layer]
        x = codes if solution.gain == 1 else self._times(codes, solution.gain, data, shape)
        out, clip = self._output(node, consumer)
        # Makes input scale * kernel scale / output scale equal M.
        scales = (solution.multiplier * (out.scale / x.scale)).astype(np.float32)
        kernel, axis = tflite_nodes.kernel_of(node, solution.kernel(data.kernel))
        weights = self.flat.constant(kernel, scales, axis)
        bias = self.flat.constant(solution.bias.astype(np.int32), x.scale * scales)
        operands = [x.tensor, weights, bias]
        quantized = x.scale, x.zero
        tflite_nodes.convolution(
            self.flat, node, operands, shape, out.tensor, clip or "NONE", quantized
        )
        if clip is None:
            out = self._clipped(out, consumer, self.model.graph.shapes[node.output])
        self._codes[consumer.value, Quantizer.of(consumer.reader)] = out
        self._skipped |= set(consumer.skipped)

    def _times(self, codes: Codes, gain: int, data: LayerData, shape) -> Codes:
        """The same values with codes multiplied by `gain`."""
        key = codes.tensor, gain
        if key not in self._larger:
            scale, zero = np.float32(codes.scale / gain), 0 if data.input_signed else -128
            tensor = self.flat.value(shape, "int8", scale, zero)
            self.flat.add("QUANTIZE", [codes.tensor], tensor, kind="QuantizeOptions")
            self._larger[key] = Codes(tensor, scale, zero)
        return self._larger[key]

    def _output(self, node: Node, consumer: Consumer) -> tuple[Codes, str | None]:
        """The tensor for a layer's codes, and the activation that clips them, or None."""
        reader, target = consumer.reader, consumer.target
        low, high = reader.input_range
        scale, clip = np.float32(1), None
        if self._read_as_integers(consumer):
            if not reader.input_signed and target.low == 0 and 0 < target.high < 255:
                scale, clip = np.float32(6 / target.high), "RELU6"
            elif reader.input_signed and (target.low, target.high) == (low, high) and high < 127:
                scale, clip = np.float32(-1 / low), "RELU_N1_TO_1"
        shape, zero = self.model.graph.shapes[node.output], zero_of(reader)
        tensor = self.flat.value(shape, "int8", scale, zero, node.layer)
        return Codes(tensor, scale, zero), clip

    def _read_as_integers(self, consumer: Consumer) -> bool:
        readers = [n for n in self.model.graph.layer_nodes if consumer.value in n.inputs]
        return all(reader.layer in self._solutions for reader in readers)

    def _clipped(self, codes: Codes, consumer: Consumer, shape) -> Codes:
        """Clips codes to the target's range, with separate operators if int8 is wider."""
        target = consumer.target
        for op, bound, end in (("MAXIMUM", target.low, -128), ("MINIMUM", target.high, 127)):
            if bound + codes.zero == end:
                continue
            y = self.flat.value(shape, "int8", codes.scale, codes.zero)
            limit = self.flat.constant_codes(bound + codes.zero, codes.scale, codes.zero)
            self.flat.add(op, [codes.tensor, limit], y, kind="MaximumMinimumOptions")
            codes = Codes(y, codes.scale, codes.zero)
        return codes
