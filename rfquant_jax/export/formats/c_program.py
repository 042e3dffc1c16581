"""The C function for one image, and the constant arrays that it reads."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import jax
import numpy as np

from rfquant_jax.data.transforms import normalizer
from rfquant_jax.export.formats import c_nodes
from rfquant_jax.export.formats.c_text import array, comment_text, number
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.consumers import target_of
from rfquant_jax.export.ir.graph import INPUT, Node
from rfquant_jax.export.ir.memory import MemoryPlan, codes_of, plan, scratch_of
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import AFFINE, CONSTANT, CONVOLUTION, DENSE, RESIDUAL
from rfquant_jax.export.ir.packing import pack
from rfquant_jax.export.ir.routes import Route
from rfquant_jax.quant.lsq import FULL_PRECISION

_HEAD = """\
static void run(const float *image, const uint8_t *pixels, float *logits, float *arena) {
  (void)image, (void)pixels, (void)arena;"""


def memory_of(model: IntegerModel) -> MemoryPlan:
    """The memory layout of the activations of one image."""
    return plan(model.graph, lambda layer: model.layers[layer].quantizes_input)


class Program:
    """Writes the function `run`.

    Attributes:
      arrays: definitions of the arrays.
      memory: layout of the activations.
    """

    def __init__(self, model: IntegerModel):
        self.model, self.memory = model, memory_of(model)
        self.arrays: list[str] = []

    def text(self) -> str:
        """The source of the function; completes `arrays`."""
        graph, held = self.model.graph, self.memory
        routes = [route for found in held.routes.values() for route in found]
        self._moves = {move.output: (move, route) for route in routes for move in route.moves}
        self._filled = {codes_of(route.values[-1], route.reader.layer) for route in routes}
        lines = [_HEAD]
        for place, node in enumerate(graph.nodes):
            if node.op == CONSTANT:
                values = self.model.constants[node.output]
                self.arrays.append(array("float", f"constant_{node.output}", values))
            elif node.op == RESIDUAL:
                lines += self._residual(node)
            elif node.op in (CONVOLUTION, DENSE):
                lines += self._layer(place, node)
            elif node.output in self._moves:
                lines.append(self._move(*self._moves[node.output]))
            elif node.output in held.buffers or node.output == graph.output:
                lines.append(self._other(place, node))
        return "\n  ".join(lines) + "\n}\n"

    def _floats(self, value: str) -> str:
        """The C expression of a float value."""
        if value == self.model.graph.output:
            return "logits"
        if value == INPUT:
            return "image"
        if value in self.memory.buffers:
            return f"(arena + {self.memory.buffers[value].offset // 4})"
        return f"constant_{value}"

    def _bytes(self, buffer: str, kind: str = "uint8_t") -> str:
        return f"({kind} *)(arena + {self.memory.buffers[buffer].offset // 4})"

    def _other(self, place: int, node: Node) -> str:
        shapes = self.model.graph.shapes
        of = [shapes[x] if isinstance(x, str) else None for x in node.inputs]
        names = [self._floats(x) if isinstance(x, str) else "" for x in node.inputs]
        names.append(self._floats(node.output))
        if node.op == AFFINE:
            data = self.model.layers[node.layer]
            return c_nodes.affine(shapes[node.output], names, self._numbers(place, data))
        return c_nodes.emit(node, of, shapes[node.output], names)

    def _numbers(self, place: int, data: LayerData) -> tuple[str, str]:
        """Names of the arrays of a layer's scale and bias."""
        names = f"scale_{place}", f"bias_{place}"
        for name, values in zip(names, (data.scale, data.bias), strict=True):
            self.arrays.append(array("float", name, values))
        return names

    def _layer(self, place: int, node: Node) -> list[str]:
        """The block of a convolution or a dense layer."""
        data = self.model.layers[node.layer]
        bits = f"{data.weight_bits} bits, input {data.input_bits}"
        lines = [
            f"{{ /* {comment_text(node.layer)}: {bits} */",
            f"  const shape_t s = {{{', '.join(map(str, self._sizes(node)))}}};",
            f"  const layer_t layer = {{{self._parameters(place, data)}}};",
        ]
        sinks, outputs = self._outputs(node)
        found, x = self._input(place, node, data)
        row = self._bytes(scratch_of(node.layer), "int8_t")
        name = "integer_layer" if data.is_integer else "float_layer"
        call = f"  {name}(&s, &layer, {x}, {row}, {outputs});"
        return [*lines, *sinks, *found, call, "}"]

    def _outputs(self, node: Node) -> tuple[list[str], str]:
        """Statements that describe where a layer writes, and the arguments for it."""
        if (routes := self.memory.routes.get(node.output)) is None:
            return [], f"0, 0, {self._floats(node.output)}"
        sinks = []
        for route in routes:
            data = self.model.layers[route.reader.layer]
            codes = self._bytes(codes_of(route.values[0], route.reader.layer))
            quantizer = _quantizer(target_of(data, route.clips), data.input_range[0])
            sinks.append(f"{{{codes}, {{{quantizer}}}}}")
        return [f"  const sink_t sinks[] = {{{', '.join(sinks)}}};"], f"sinks, {len(sinks)}, 0"

    def _residual(self, node: Node) -> list[str]:
        """The block of a residual addition."""
        data = self.model.layers[node.layer]
        sinks, outputs = self._outputs(node)
        lines, codes = zip(*(self._codes(x, node, data) for x in node.inputs), strict=True)
        size = math.prod(self.model.graph.shapes[node.output])
        numbers = f"{data.input_range[0]}, {size}, {number(data.scale[0])}, {number(data.bias[0])}"
        call = f"  add_codes({codes[0]}, {codes[1]}, {numbers}, {outputs});"
        head = f"{{ /* {comment_text(node.layer)}: input {data.input_bits} */"
        return [head, *sinks, *itertools.chain(*lines), call, "}"]

    def _move(self, node: Node, route: Route) -> str:
        """A slice or a padding of codes; the stored code 0 stands for the smallest one."""
        name, shapes = route.reader.layer, self.model.graph.shapes
        names = [f"({self._bytes(codes_of(x, name))})" for x in (node.inputs[0], node.output)]
        attributes = dict(node.attributes)
        if node.op == "pad":
            attributes["value"] = -self.model.layers[name].input_range[0]
        moved = replace(node, attributes=attributes)
        return c_nodes.emit_codes(moved, shapes[node.inputs[0]], shapes[node.output], names)

    def _sizes(self, node: Node) -> list[int]:
        """The fields of `shape_t`."""
        shapes, attributes = self.model.graph.shapes, node.attributes
        if node.op == CONVOLUTION:
            output, kernel = shapes[node.output], attributes["kernel"]
            (top, _), (left, _) = attributes["padding"]
            places = [*attributes["strides"], *attributes["dilation"], top, left, *output[:2]]
            sizes = [*shapes[node.inputs[0]], *kernel[1:3], kernel[0], attributes["groups"]]
            return [*sizes, *places]
        outputs, inputs = attributes["kernel"]
        rows = math.prod(shapes[node.inputs[0]][:-1])
        return [rows, 1, inputs, 1, 1, outputs, 1, 1, 1, 1, 1, 0, 0, rows, 1]

    def _parameters(self, place: int, data: LayerData) -> str:
        """The fields of `layer_t`."""
        scale, bias = self._numbers(place, data)
        kernel = f"kernel_{place}"
        if data.weight_bits >= FULL_PRECISION:
            self.arrays.append(array("float", kernel, data.kernel))
            return f"0, {kernel}, 0, {scale}, {bias}"
        packed = pack(data.kernel, data.weight_bits)
        self.arrays.append(array("uint8_t", kernel, packed))
        return f"{kernel}, 0, {data.weight_bits}, {scale}, {bias}"

    def _input(self, place: int, node: Node, data: LayerData) -> tuple[list[str], str]:
        """Statements that prepare a layer's input, and the expressions to read it."""
        value = node.inputs[0]
        if not data.quantizes_input:
            pixels = "pixels, pixel_values, 256" if value == INPUT else "0, 0, 0"
            if value == INPUT and not self._reads_pixels():
                pixels = "0, 0, 0"
            source = f"  const source_t x = {{{self._floats(value)}, {pixels}}};"
            return [source], "&x"
        zero, (lines, codes) = data.input_range[0], self._codes(value, node, data)
        if data.is_integer:
            return lines, f"{codes}, {zero}"
        self.arrays.append(array("float", f"values_{place}", zero + np.arange(256)))
        return [*lines, f"  const source_t x = {{0, {codes}, values_{place}, 0}};"], "&x"

    def _codes(self, value: str, node: Node, data: LayerData) -> tuple[list[str], str]:
        """Statements that quantize an input, if it is not yet, and the expression of its codes."""
        name = codes_of(value, node.layer)
        codes, zero = self._bytes(name), data.input_range[0]
        if name in self._filled:
            return [], codes
        self._filled.add(name)
        quantizer = _quantizer(Target(data.input_step, *data.input_range), zero)
        count = math.prod(self.model.graph.shapes[value])
        call = f"quantize({self._floats(value)}, {codes}, {count}, &input);"
        return [f"  {{ const quantizer_t input = {{{quantizer}}}; {call} }}"], codes

    def _reads_pixels(self) -> bool:
        """Whether layers read pixels directly, without a float image."""
        return pixel_values(self.model) is not None and INPUT not in self.memory.buffers


def _quantizer(target: Target, zero: int) -> str:
    return f"{number(target.step)}, {target.low}, {target.high}, {zero}"


def pixel_values(model: IntegerModel) -> np.ndarray | None:
    """The normalised value of every pixel by channel, float32[C, 256].

    Computed by XLA, as in the evaluation, because XLA for example multiplies with the reciprocal.
    """
    mean, std = (np.asarray(model.about.get(name, []), np.float32) for name in ("mean", "std"))
    channels = model.graph.input_shape[-1]
    if mean.shape != (channels,) or mean.shape != std.shape:
        return None
    pixels = np.arange(256, dtype=np.uint8)[None, :, None, None].repeat(channels, -1)
    with jax.default_device(jax.devices("cpu")[0]):
        return np.asarray(jax.jit(normalizer(mean, std))(pixels))[0, :, 0].T
