"""The graph of an integer model: its nodes in the order they run, and the check that they fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rfquant_jax.errors import UserError
from rfquant_jax.export.ir.operations import LAYERS, OPERATIONS
from rfquant_jax.export.ir.shapes import Shape, number, shown, whole_numbers

INPUT = "image"  # the name of the network's input
MOST_AXES = 5  # of anything, without that of the images


class GraphError(UserError):
    """A graph that cannot be run."""


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
      op: a key of `OPERATIONS`.
      inputs: names of what it takes; a number stands for itself.
      output: name of what it makes.
      attributes: what else it needs to know, JSON.
    """

    op: str
    inputs: tuple[str | float, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The name of the layer whose parameters it takes."""
        return self.attributes["layer"]

    def to_json(self) -> dict:
        head = {"op": self.op, "inputs": list(self.inputs), "output": self.output}
        return head | dict(self.attributes)

    @classmethod
    def from_json(cls, content: object) -> Node:
        """Raises GraphError where `content` does not describe a node."""
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
    """A network as operations on named arrays, each with a leading axis of images.

    Attributes:
      input_shape: (H, W, C) of the normalised images.
      nodes: each takes only what those before it made.
      output: the name of the logits.
    """

    input_shape: tuple[int, int, int]
    nodes: tuple[Node, ...]
    output: str

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of everything by name, without the axis of the images.

        Raises:
          GraphError: a node does not fit what it takes.
        """
        known: dict[str, Shape] = {INPUT: self.input_shape}
        layers: set[str] = set()
        for node in self.nodes:
            try:
                shape = self._shape(node, known)
                if node.output in known:
                    raise ValueError("is made twice")
                if node.op in LAYERS and (not isinstance(node.layer, str) or node.layer in layers):
                    raise ValueError(f"layer {node.layer!r} must be a name of its own")
            except ValueError as error:
                raise GraphError(f"node {node.output!r} ({node.op}): {error}") from error
            known[node.output] = shape
            layers |= {node.layer} if node.op in LAYERS else set()
        if self.output not in known:
            raise GraphError(f"the output {self.output!r} is made by no node")
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
                if operation.operands != 2:
                    raise ValueError("takes no number")
                shapes.append(None)
            elif name not in known:
                raise ValueError(f"takes {name!r}, which is not there yet")
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
        """The nodes with parameters, in the order they run."""
        return tuple(node for node in self.nodes if node.op in LAYERS)

    @cached_property
    def last_uses(self) -> dict[str, int]:
        """By name, the place of the last node that takes it: afterwards it can be forgotten."""
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
        """The graph that `to_json` described, checked.

        Raises:
          GraphError: it is none, or its nodes do not fit together.
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
        _ = graph.shapes  # reading it is the check
        return graph
