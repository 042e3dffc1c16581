"""Translates a jaxpr into the operations of an integer model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive

from rfquant_jax.errors import UserError
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.operations import CONSTANT

_BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "max": "maximum",
    "min": "minimum",
}
_UNARY = {"neg": "negate", "abs": "absolute", "logistic": "sigmoid", "tanh": "tanh"}
_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "remat",
    "remat2",
    "checkpoint",
)
_SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier")
_RENAMED = {
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_window_sum": "sum_pool",
    "reduce_window_max": "max_pool",
}


class UnsupportedNetwork(UserError):  # noqa: N818 - the error is in what it says
    """An integer model cannot express the network."""

    def __init__(self, reason: str):
        super().__init__(f"this network cannot be exported: {reason}")


@dataclass(frozen=True)
class Value:
    """A value that depends on the images; `shape` includes the leading batch axis.

    Axes may have length 1 where the traced array is longer; consumers then broadcast it.
    """

    name: str
    shape: tuple[int, ...]


Operand = Value | np.ndarray


class Translator:
    """Collects the nodes of one traced network.

    Args:
      count: batch size of the trace.
      marks: for each marker primitive, a function from its parameters and input shape to
        (operation, attributes).

    Attributes:
      nodes: in execution order.
      constants: arrays by the name of the constant's node.
    """

    def __init__(self, count: int, marks: Mapping[Primitive, Callable]):
        self.count, self.marks = count, marks
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def translate(self, closed: ClosedJaxpr, image: str, shape: Sequence[int]) -> str:
        """Translates a network with one input and returns the name of its output."""
        consts = [np.asarray(c) for c in closed.consts]
        outputs = self._run(closed.jaxpr, consts, [Value(image, tuple(shape))])
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            raise UnsupportedNetwork("it must return its logits alone")
        return outputs[0].name

    def _run(self, jaxpr: Jaxpr, consts: Sequence, inputs: Sequence[Operand]) -> list[Operand]:
        known: dict[Any, Operand] = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True)
        )

        def read(atom) -> Operand:
            return np.asarray(atom.val) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, operands: list[Operand]) -> list[Operand]:
        if (inner := _inner(equation)) is not None:
            return self._run(inner.jaxpr, [np.asarray(c) for c in inner.consts], operands)
        if not any(isinstance(operand, Value) for operand in operands):
            found = equation.primitive.bind(*operands, **equation.params)
            return [np.asarray(v) for v in (found if isinstance(found, list | tuple) else [found])]
        return [self._value(equation, operands)]

    def _value(self, equation: JaxprEqn, operands: list[Operand]) -> Value:
        primitive, params, name = equation.primitive, equation.params, equation.primitive.name
        values = [x for x in operands if isinstance(x, Value)]
        if name in _BINARY:
            return self._binary(_BINARY[name], operands)
        if name in _UNARY:
            return self._add(_UNARY[name], values, values[0].shape)
        if name in _SAME or (name == "convert_element_type" and params["new_dtype"] == np.float32):
            return values[0]
        if name == "broadcast_in_dim":
            return self._spread(values[0], params)
        shape = equation.outvars[0].aval.shape
        self._check_whole(equation, operands)
        if primitive in self.marks:
            op, attributes = self.marks[primitive](params, values[0].shape)
            return self._add(op, values, shape, attributes)
        if name == "concatenate" and len(values) == len(operands) and params["dimension"] > 0:
            return self._add(name, values, shape, {"axis": int(params["dimension"])})
        if name in ("reshape", "squeeze"):
            return self._reshape(values[0], shape)
        attributes = _attributes(name, params, operands)
        if attributes is None:
            sizes = ", ".join(str(list(v.shape[1:])) for v in values)
            raise UnsupportedNetwork(f"between its layers it uses {name!r} (on {sizes})")
        return self._add(_RENAMED.get(name, name), values[:1], shape, attributes)

    def _binary(self, op: str, operands: Sequence[Operand]) -> Value:
        inputs = [x if isinstance(x, Value) else self._constant(x) for x in operands]
        shapes = [x.shape for x in inputs if isinstance(x, Value)]
        return self._add(op, inputs, np.broadcast_shapes(*shapes))

    def _constant(self, x: np.ndarray) -> Value | float:
        """An array as an operand, with constant axes reduced to length 1, or a number."""
        for axis in range(x.ndim):
            start = x.take([0], axis)
            x = start if np.array_equal(np.broadcast_to(start, x.shape), x) else x
        if x.size == 1:
            return float(x.reshape(()))
        if x.shape[0] != 1:
            raise UnsupportedNetwork("it treats the images of a batch differently")
        name = self._next_name()
        self.nodes.append(Node(CONSTANT, (), name, {"shape": list(x.shape[1:])}))
        self.constants[name] = x[0].astype(np.float32)
        return Value(name, x.shape)

    def _spread(self, x: Value, params: Mapping) -> Value:
        """Inserts axes of length 1; elementwise consumers broadcast them."""
        shape = [1] * len(params["shape"])
        for size, axis in zip(x.shape, params["broadcast_dimensions"], strict=True):
            shape[axis] = size
        return self._reshape(x, tuple(shape))

    def _reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return self._add("reshape", [x], shape, {"shape": [int(size) for size in shape[1:]]})

    def _check_whole(self, equation: JaxprEqn, operands: Sequence[Operand]) -> None:
        """Checks that no input still needs broadcasting."""
        for atom, x in zip(equation.invars, operands, strict=True):
            if isinstance(x, Value) and x.shape != tuple(atom.aval.shape):
                raise UnsupportedNetwork(
                    f"it uses {equation.primitive.name!r} on a broadcast array"
                )

    def _add(
        self,
        op: str,
        inputs: Sequence[Value | float],
        shape: Sequence[int],
        attributes: Mapping | None = None,
    ) -> Value:
        if not shape or shape[0] != self.count:
            raise UnsupportedNetwork(f"its operation {op!r} mixes the images of a batch")
        name = self._next_name()
        names = tuple(x.name if isinstance(x, Value) else x for x in inputs)
        self.nodes.append(Node(op, names, name, attributes or {}))
        return Value(name, tuple(map(int, shape)))

    def _next_name(self) -> str:
        return f"x{len(self.nodes) + 1}"


def _inner(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The jaxpr inside a plain call; loops and conditionals are not plain calls."""
    if equation.primitive.name not in _CALLS:
        return None
    for value in equation.params.values():
        if isinstance(value, ClosedJaxpr):
            return value
        if isinstance(value, Jaxpr):
            return ClosedJaxpr(value, ())
    return None


def _attributes(name: str, params: Mapping, operands: Sequence[Operand]) -> dict | None:
    """The attributes of an operation on one value, or None if it is not supported."""
    if name in ("reduce_sum", "reduce_max") and 0 not in params["axes"]:
        return {"axes": [int(axis) for axis in params["axes"]]}
    if name in ("reduce_window_sum", "reduce_window_max"):
        return _pool(params)
    if name == "pad":
        return _pad(params, operands[1])
    if name == "slice":
        rows = {"starts": "start_indices", "limits": "limit_indices", "strides": "strides"}
        found = {ours: params[theirs] for ours, theirs in rows.items()}
        found["strides"] = found["strides"] or (1,) * len(found["starts"])
        whole = (found["starts"][0], found["limits"][0], found["strides"][0])
        if whole == (0, operands[0].shape[0], 1):
            return {key: [int(v) for v in values[1:]] for key, values in found.items()}
    return None


def _pool(params: Mapping) -> dict | None:
    dilations = {*params["base_dilation"], *params["window_dilation"]}
    window, strides, padding = (
        tuple(params[name]) for name in ("window_dimensions", "window_strides", "padding")
    )
    images = len(window) == 4 and dilations == {1}
    outer = [(window[i], strides[i], tuple(padding[i])) for i in (0, -1)]
    if not images or outer != [(1, 1, (0, 0))] * 2:
        return None
    return {
        "window": [int(v) for v in window[1:3]],
        "strides": [int(v) for v in strides[1:3]],
        "padding": [[int(low), int(high)] for low, high in padding[1:3]],
    }


def _pad(params: Mapping, value: Operand) -> dict | None:
    config = [tuple(map(int, entry)) for entry in params["padding_config"]]
    grows = all(low >= 0 and high >= 0 and inner == 0 for low, high, inner in config)
    if isinstance(value, Value) or not grows or config[0] != (0, 0, 0):
        return None
    return {"padding": [[low, high] for low, high, _ in config[1:]], "value": float(value)}
