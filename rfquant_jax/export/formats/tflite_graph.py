"""Collects the tensors and operators of a LiteRT model and writes its flatbuffer.

The classes of the schema come from the package ai-edge-litert; TensorFlow is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from rfquant_jax.errors import UserError
from rfquant_jax.export.formats.tflite_sharing import Once, sharing_builder

PACKAGE = "ai-edge-litert"
METADATA = "rfquant_jax"
_MINIMUM_VERSION = b"1.14.0"  # oldest runtime version with all of these operators
_TYPES = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32", "bool": "BOOL"}


def schema() -> ModuleType:
    """The module with the classes of the flatbuffer schema.

    Raises:
      UserError: it is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise UserError(f"the format tflite needs the package {PACKAGE}") from error
    return schema_py_generated


class FlatGraph:
    """Tensors are referred to by index; all but constants have a leading batch axis.

    Names are for people: the input and the output of every layer have one.
    """

    def __init__(self):
        self._schema = schema()
        self._tensors, self._operators, self._codes = [], [], {}
        self._buffers = [self._schema.BufferT()]  # empty, for all computed tensors
        self._held: dict[tuple, int] = {}
        self._contents: dict[bytes, int] = {}
        self._tables: dict[tuple, Once] = {}

    def value(
        self, shape: Sequence[int], kind: str = "float32", scale=None, zero=0, name: str = ""
    ) -> int:
        """A computed tensor or the input; with a scale it holds codes."""
        quantization = None if scale is None else self._quantization([scale], [zero], 0)
        return self._tensor([1, *shape], kind, 0, quantization, name)

    def constant(self, values: np.ndarray, scale=None, axis: int = 0) -> int:
        """A constant tensor, deduplicated; with scales it holds codes quantized per axis."""
        values = np.ascontiguousarray(values)
        key = (
            values.tobytes(),
            values.shape,
            values.dtype.name,
            scale
            if scale is None
            else (
                np.asarray(scale, np.float32).tobytes(),
                axis,
            ),
        )
        if key not in self._held:
            buffer = self._buffer(values.tobytes())
            scales = None if scale is None else np.atleast_1d(np.asarray(scale, np.float32))
            quantization = None
            if scales is not None:
                quantization = self._quantization(scales, np.zeros(len(scales), np.int64), axis)
            kind = values.dtype.name
            self._held[key] = self._tensor(values.shape, kind, buffer, quantization)
        return self._held[key]

    def constant_codes(self, code: int, scale, zero: int) -> int:
        """A constant code with the quantization of the tensor it is compared with."""
        buffer = self._buffer(np.int8(code).tobytes())
        quantization = self._quantization([scale], [zero], 0)
        return self._tensor([1], "int8", buffer, quantization)

    def constant_floats(self, codes: np.ndarray) -> int:
        """Constant int8 codes as float32 integers; runtimes convert them at load time."""
        held = self.constant(codes, 1.0)
        value = self._tensor(codes.shape, "float32")
        return self.add("DEQUANTIZE", [held], value)

    def numbers(self, values: Sequence[int]) -> int:
        """A constant list of integers."""
        return self.constant(np.asarray(values, np.int32))

    def add(self, op: str, inputs: Sequence[int], output: int, **options) -> int:
        """Appends an operator and returns its output.

        Args:
          op: a name of the schema's BuiltinOperator.
          options: fields of the class `kind` of its options.
        """
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(op, len(self._codes))
        made.inputs, made.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if (kind := options.pop("kind", None)) is not None:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
            made.builtinOptions = self._once(f"{kind}T", **options)
        self._operators.append(made)
        return output

    def activation(self, name: str) -> int:
        """The schema's value of a fused activation."""
        return getattr(self._schema.ActivationFunctionType, name)

    def padding(self, same: bool) -> int:
        return self._schema.Padding.SAME if same else self._schema.Padding.VALID

    def serialize(self, inputs: int, output: int, about: Mapping) -> bytes:
        """The flatbuffer; `about` becomes JSON in the metadata."""
        schema = self._schema
        for index in (inputs, output):
            self._tensors[index].shapeSignature = self._tensors[index].shape.copy()
            self._tensors[index].shapeSignature[0] = -1
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs, graph.name = [inputs], [output], b"main"
        model = schema.ModelT()
        model.version, model.description = 3, b"rfquant_jax"
        model.operatorCodes = [self._operator_code(op) for op in self._codes]
        model.metadata = [
            self._metadata(METADATA, json.dumps(dict(about), separators=(",", ":")).encode()),
            self._metadata("min_runtime_version", _MINIMUM_VERSION.ljust(16, b"\0")),
        ]
        model.subgraphs, model.buffers = [graph], self._buffers
        builder = sharing_builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _metadata(self, name: str, content: bytes):
        made = self._schema.MetadataT()
        made.name, made.buffer = name.encode(), self._buffer(content)
        return made

    def _operator_code(self, op: str):
        made = self._schema.OperatorCodeT()
        made.builtinCode = getattr(self._schema.BuiltinOperator, op)
        made.deprecatedBuiltinCode = min(made.builtinCode, 127)
        made.version = _VERSIONS.get(op, 1)
        return made

    def _buffer(self, content: bytes) -> int:
        """The index of a buffer, one for equal contents."""
        if content not in self._contents:
            made = self._schema.BufferT()
            made.data = np.frombuffer(content, np.uint8)
            self._contents[content] = len(self._buffers)
            self._buffers.append(made)
        return self._contents[content]

    def _quantization(self, scales, zeros, axis: int) -> Once:
        scale, zero = np.asarray(scales, np.float32), np.asarray(zeros, np.int64)
        kind = "QuantizationParametersT"
        return self._once(kind, scale=scale, zeroPoint=zero, quantizedDimension=axis)

    def _once(self, kind: str, **fields) -> Once:
        """A table of the schema, one for equal fields."""
        parts = {n: v.tobytes() if isinstance(v, np.ndarray) else v for n, v in fields.items()}
        key = (kind, *parts.items())
        if key not in self._tables:
            made = getattr(self._schema, kind)()
            for name, value in fields.items():
                setattr(made, name, value)
            self._tables[key] = Once(made)
        return self._tables[key]

    def _tensor(self, shape, kind: str, buffer: int = 0, quantization=None, name: str = "") -> int:
        made = self._schema.TensorT()
        made.name, made.shape = name.encode() or None, np.asarray(shape, np.int32)
        made.type = getattr(self._schema.TensorType, _TYPES[kind])
        made.buffer, made.quantization = buffer, quantization
        self._tensors.append(made)
        return len(self._tensors) - 1


# Operator versions that accept int8; operators not listed use version 1.
_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 5,
    "QUANTIZE": 2,
    "DEQUANTIZE": 5,
    "MINIMUM": 2,
    "MAXIMUM": 2,
    "PAD": 2,
}
