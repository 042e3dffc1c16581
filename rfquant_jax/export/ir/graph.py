"""The graph of an integer model: its nodes in execution order, and their validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rfquant_jax.errors import UserError
from rfquant_jax.export.ir.operations import LAYERS, OPERATIONS
from rfquant_jax.export.ir.shapes import Shape, number, shown, whole_numbers

INPUT = "image"  # name of the network's input
MOST_AXES = 5  # axes of any value, without the batch axis


class GraphError(UserError):
    """An invalid graph."""


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
      op: a key of `OPERATIONS`.
      inputs: names of the inputs; numbers are constants.
      output: name of the output.
      attributes: attributes of the operation, JSON.
    """

    op: str
    inputs: tuple[str | float, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The name of the layer whose parameters it uses."""
        return self.attributes["layer"]

    def to_json(self) -> dict:
        head = {"op": self.op, "inputs": list(self.inputs), "output": self.output}
        return head | dict(self.attributes)

    @classmethod
    def from_json(cls, content: object) -> Node:
        """Parses a node; raises GraphError if `content` is invalid."""
        if not isinstance(content, dict):
            raise GraphError(f"node {shown(content)} is no mapping")
        rest = dict(content)
        op, inputs, output = (rest.pop(name, None) for name in ("op", "inputs", "output"))
        if (
            not isinstance(op, str)
            or op not in OPERATIONS
            or not isinstance(inputs, list)
            or not isinstance(output, str)
        ):
            raise GraphError(
                f"node {shown(content)} is none of the operations {', '.join(OPERATIONS)}"
            )
        return cls(op, tuple(inputs), output, rest)


@dataclass(frozen=True)
class Graph:
    """A network as operations on named arrays, each with a leading batch axis.

    Attributes:
      input_shape: (H, W, C) of the normalised images.
      nodes: in execution order; each reads only outputs of earlier nodes.
      output: the name of the logits.
    """

    input_shape: tuple[int, int, int]
    nodes: tuple[Node, ...]
    output: str

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of all values by name, without the batch axis.

        Raises:
          GraphError: a node does not fit its inputs.
        """
        known: dict[str, Shape] = {INPUT: self.input_shape}
        layers: set[str] = set()
        for node in self.nodes:
            try:
                shape = self._shape(node, known)
                if node.output in known:
                    raise ValueError("is defined twice")
                if node.op in LAYERS and (not isinstance(node.layer, str) or node.layer in layers):
                    raise ValueError(f"layer {node.layer!r} must be a unique name")
            except ValueError as error:
                raise GraphError(f"node {node.output!r} ({node.op}): {error}") from error
            known[node.output] = shape
            layers |= {node.layer} if node.op in LAYERS else set()
        if self.output not in known:
            raise GraphError(f"the output {self.output!r} is not defined by any node")
        return known

    @staticmethod
    def _shape(node: Node, known: Mapping[str, Shape]) -> Shape:
        operation = OPERATIONS[node.op]
        if set(node.attributes) != set(operation.attributes):
            raise ValueError(f"takes the attributes {list(operation.attributes)}")
        if operation.operands is not None and len(node.inputs) != operation.operands:
            raise ValueError(f"takes {operation.operands} inputs")
        shapes = []
        for name in node.inputs:
            if not isinstance(name, str):
                number(name)
                if operation.operands not in (2, 3):
                    raise ValueError("takes no number")
                shapes.append(None)
            elif name not in known:
                raise ValueError(f"takes {name!r}, which is not defined before it")
            else:
                shapes.append(known[name])
        shape = operation.shape(shapes, node.attributes)
        if len(shape) > MOST_AXES:
            raise ValueError(f"makes {len(shape)} axes; there may be {MOST_AXES}")
        if math.prod(shape) >= 2**31:
            raise ValueError(f"makes {shape}, which is too large")
        return shape

    @property
    def layer_nodes(self) -> tuple[Node, ...]:
        """The nodes with parameters, in execution order."""
        return tuple(node for node in self.nodes if node.op in LAYERS)

    @cached_property
    def last_uses(self) -> dict[str, int]:
        """The index of the last node that reads each value, by name; it can be freed afterwards."""
        uses = {n: i for i, node in enumerate(self.nodes) for n in node.inputs if n in self.shapes}
        return uses | {self.output: len(self.nodes)}

    def to_json(self) -> dict:
        return {
            "input_shape": list(self.input_shape),
            "output": self.output,
            "nodes": [node.to_json() for node in self.nodes],
        }

    @classmethod
    def from_json(cls, content: object) -> Graph:
        """Parses and validates the result of `to_json`.

        Raises:
          GraphError: the content is not a graph, or its nodes do not fit together.
        """
        if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
            raise GraphError("there is no graph with nodes")
        try:
            shape = whole_numbers(content.get("input_shape"), 3, least=1)
        except ValueError as error:
            raise GraphError(f"input_shape: {error}") from error
        if not isinstance(content.get("output"), str):
            raise GraphError(f"its output {shown(content.get('output'))} must be a name")
        nodes = tuple(Node.from_json(node) for node in content["nodes"])
        graph = cls(shape, nodes, content["output"])
        _ = graph.shapes  # validates the graph
        return graph
