"""Translates a jaxpr into the operations of an integer model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive

from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.operations import CONSTANT
from rfquant_jax.export.trace.attributes import RENAMED, attributes_of
from rfquant_jax.export.trace.composed import COMPOSED
from rfquant_jax.export.trace.products import product
from rfquant_jax.export.trace.values import Operand, UnsupportedNetwork, Value, permuted

_BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "max": "maximum",
    "min": "minimum",
}
_UNARY = {
    "neg": "negate",
    "abs": "absolute",
    "logistic": "sigmoid",
    **{name: name for name in ("tanh", "exp", "expm1", "log", "log1p", "sqrt", "sign", "erf")},
}
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
        output = self._settled(outputs[0]).name
        self._prune(output)
        return output

    def _prune(self, output: str) -> None:
        """Removes nodes that the output does not depend on, such as unused parts of a split."""
        used, kept = {output}, []
        for node in reversed(self.nodes):
            if node.output in used:
                kept.append(node)
                used.update(name for name in node.inputs if isinstance(name, str))
        self.nodes = kept[::-1]
        self.constants = {name: x for name, x in self.constants.items() if name in used}

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
        try:
            if (inner := _inner(equation)) is not None:
                return self._run(inner.jaxpr, [np.asarray(c) for c in inner.consts], operands)
            if any(isinstance(operand, Value) for operand in operands):
                return self._values(equation, operands)
        except UnsupportedNetwork as error:
            # Equations inside a function of JAX have no place in the user's code; its call has.
            place = error.place or source_info_util.summarize(equation.source_info)
            raise UnsupportedNetwork(error.reason, place) from None
        found = equation.primitive.bind(*operands, **equation.params)
        return [np.asarray(v) for v in (found if isinstance(found, list | tuple) else [found])]

    def _values(self, equation: JaxprEqn, operands: list[Operand]) -> list[Operand]:
        name, params = equation.primitive.name, equation.params
        if name == "transpose":
            return [permuted(operands[0], params["permutation"])]
        if name == "dot_general":
            found = product(self, params, *self._whole(equation, operands))
        else:
            operands = [self._settled(x) if isinstance(x, Value) else x for x in operands]
            if name == "split":
                (x,) = self._whole(equation, operands)
                return self._split(x, int(params["axis"]), params["sizes"])
            found = self._value(equation, operands)
        if found is None:
            sizes = ", ".join(str(list(x.shape[1:])) for x in operands if isinstance(x, Value))
            raise UnsupportedNetwork(f"between its layers it uses {name!r} (on {sizes})")
        return [found]

    def _value(self, equation: JaxprEqn, operands: list[Operand]) -> Value | None:
        primitive, params, name = equation.primitive, equation.params, equation.primitive.name
        values = [x for x in operands if isinstance(x, Value)]
        if name in _BINARY:
            return self._binary(_BINARY[name], operands)
        if name in _UNARY:
            return self.add(_UNARY[name], values, values[0].shape)
        if name in COMPOSED:
            return COMPOSED[name](self, params, operands)
        if name in _SAME or (name == "convert_element_type" and params["new_dtype"] == np.float32):
            return values[0]
        if name == "broadcast_in_dim":
            return self._spread(values[0], params)
        shape, operands = equation.outvars[0].aval.shape, self._whole(equation, operands)
        values = [x for x in operands if isinstance(x, Value)]
        if primitive in self.marks:
            op, attributes = self.marks[primitive](params, values[0].shape)
            return self.add(op, values, shape, attributes)
        if name == "concatenate" and len(values) == len(operands) and params["dimension"] > 0:
            return self.add(name, values, shape, {"axis": int(params["dimension"])})
        if name in ("reshape", "squeeze"):
            return self.reshaped(values[0], shape)
        attributes = attributes_of(name, params, operands)
        if attributes is None:
            return None
        return self.add(RENAMED.get(name, name), values[:1], shape, attributes)

    def _settled(self, x: Value) -> Value:
        """The value with its axes stored as they are traced."""
        if x.order is None:
            return x
        if x.order[0] != 0:
            raise UnsupportedNetwork("it moves the axis of the images")
        return self.add("transpose", [x], x.shape, {"axes": list(x.order[1:])})

    def _split(self, x: Value, axis: int, sizes: Sequence[int]) -> list[Operand]:
        starts = np.cumsum([0, *sizes])
        return [self._cut(x, axis, int(a), int(b)) for a, b in itertools.pairwise(starts)]

    def _cut(self, x: Value, axis: int, start: int, limit: int) -> Value:
        if axis == 0:
            raise UnsupportedNetwork("it splits the batch of images")
        starts, limits = [0] * (len(x.shape) - 1), list(x.shape[1:])
        starts[axis - 1], limits[axis - 1] = start, limit
        attributes = {"starts": starts, "limits": limits, "strides": [1] * len(starts)}
        return self.add(
            "slice", [x], (*x.shape[:axis], limit - start, *x.shape[axis + 1 :]), attributes
        )

    def arranged(self, x: Value, axes: Sequence[int], shape: Sequence[int]) -> Value:
        """A value with traced axes in another order, that of the images first, reshaped.

        Args:
          shape: without the axis of the images.
        """
        return self.reshaped(self._settled(permuted(x, axes)), [self.count, *shape])

    def held(self, x: np.ndarray) -> Value:
        """A constant array with a leading axis of length 1, as it is."""
        name = self._next_name()
        self.nodes.append(Node(CONSTANT, (), name, {"shape": list(x.shape[1:])}))
        self.constants[name] = x[0].astype(np.float32)
        return Value(name, x.shape)

    def operand(self, x: Operand | float) -> Value | float:
        """An operand of an elementwise operation."""
        return self._constant(x) if isinstance(x, np.ndarray) else x

    def _binary(self, op: str, operands: Sequence[Operand]) -> Value:
        inputs = [self.operand(x) for x in operands]
        if op == "maximum" and -math.inf in inputs:  # as in a softmax, against empty axes
            return next(x for x in inputs if isinstance(x, Value))
        return self.elementwise(op, *inputs)

    def elementwise(self, op: str, *inputs: Value | float) -> Value:
        """An operation on each element of its broadcast inputs."""
        shapes = [x.shape for x in inputs if isinstance(x, Value)]
        return self.add(op, inputs, np.broadcast_shapes(*shapes))

    def _constant(self, x: np.ndarray) -> Value | float:
        """An array as an operand, with constant axes reduced to length 1, or a number."""
        for axis in range(x.ndim):
            start = x.take([0], axis)
            x = start if np.array_equal(np.broadcast_to(start, x.shape), x) else x
        if x.size == 1:
            return float(x.reshape(()))
        if x.shape[0] != 1:
            raise UnsupportedNetwork("it treats the images of a batch differently")
        return self.held(x)

    def _spread(self, x: Value, params: Mapping) -> Value:
        """Inserts axes of length 1; elementwise consumers broadcast them."""
        shape = [1] * len(params["shape"])
        for size, axis in zip(x.shape, params["broadcast_dimensions"], strict=True):
            shape[axis] = size
        return self.reshaped(x, tuple(shape))

    def reshaped(self, x: Value, shape: Sequence[int]) -> Value:
        """A value in another shape, in C order."""
        if tuple(shape) == x.shape:
            return x
        return self.add("reshape", [x], shape, {"shape": [int(size) for size in shape[1:]]})

    def _whole(self, equation: JaxprEqn, operands: Sequence[Operand]) -> list[Operand]:
        """The operands with axes of length 1 repeated to the traced length."""
        found = []
        for atom, x in zip(equation.invars, operands, strict=True):
            for axis, size in enumerate(atom.aval.shape):
                if isinstance(x, Value) and x.shape[axis] != size:
                    x = self._repeated(x, axis, size)
            found.append(x)
        return found

    def _repeated(self, x: Value, axis: int, size: int) -> Value:
        place, shape = x.stored[axis], (*x.shape[:axis], size, *x.shape[axis + 1 :])
        stored = sorted(range(len(shape)), key=x.stored.__getitem__)
        attributes = {"axis": place, "indices": [0] * size}
        found = self.add("take", [x], tuple(shape[i] for i in stored), attributes)
        return Value(found.name, shape, x.order)

    def add(
        self,
        op: str,
        inputs: Sequence[Value | float],
        shape: Sequence[int],
        attributes: Mapping | None = None,
    ) -> Value:
        """Appends a node; `shape` includes the axis of the images."""
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
