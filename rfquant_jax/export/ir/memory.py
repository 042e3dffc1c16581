"""Static memory planning of activations for the C export.

A layer with a quantized input reads codes of one byte. If only one such layer reads another layer's
output, with nothing but clips in between, that layer writes the codes directly. Everything else is
float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rfquant_jax.export.ir.graph import INPUT, Graph, Node
from rfquant_jax.export.ir.operations import CONSTANT, CONVOLUTION, DENSE, LAYERS

ALIGNMENT = 8  # bytes


@dataclass
class Buffer:
    """A buffer with its lifetime.

    Attributes:
      size: bytes.
      first, last: indices of the nodes that write it and that read it last.
      offset: start address, a multiple of ALIGNMENT.
    """

    size: int
    first: int
    last: int
    offset: int = 0


@dataclass
class MemoryPlan:
    """The activations of a graph, for one image.

    Attributes:
      buffers: by name; buffers of codes are named by `codes_of`.
      fused: by the name of a layer's output, the value whose codes the layer writes instead.
      size: total bytes.
    """

    buffers: dict[str, Buffer] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    size: int = 0


def codes_of(value: str, layer: str) -> str:
    """The name of the buffer of a value's codes for a layer."""
    return f"{value} as read by {layer}"


def scratch_of(layer: str) -> str:
    """The name of the buffer of one output channel's unpacked weights."""
    return f"weights of {layer}"


def plan(graph: Graph, quantizes: Callable[[str], bool]) -> MemoryPlan:
    """Plans the memory of a graph; logits and usually the image belong to the caller.

    Args:
      quantizes: whether the layer of this name reads codes.
    """
    found = MemoryPlan()
    readers = _readers(graph)
    if not image_stays(graph, quantizes):
        size = 4 * math.prod(graph.input_shape)
        found.buffers[INPUT] = Buffer(size, 0, graph.last_uses.get(INPUT, 0))
    skipped: set[str] = set()
    for place, node in enumerate(graph.nodes):
        if node.op in (CONVOLUTION, DENSE):
            row = math.prod(node.attributes["kernel"][1:])
            found.buffers[scratch_of(node.layer)] = Buffer(row, place, place)
            _add_codes(found, graph, node, place, quantizes)
            if (path := _to_one_reader(graph, readers, node, quantizes)) is not None:
                value, reader = path[-1], readers[path[-1]][0][1]
                found.fused[node.output] = value
                skipped |= {node.output, *path}
                size = math.prod(graph.shapes[value])
                last = readers[value][0][0]
                found.buffers[codes_of(value, reader.layer)] = Buffer(size, place, last)
        if node.output not in skipped and node.op != CONSTANT and node.output != graph.output:
            size = 4 * math.prod(graph.shapes[node.output])
            last = graph.last_uses.get(node.output, place)
            found.buffers[node.output] = Buffer(size, place, last)
    _place(found)
    return found


def image_stays(graph: Graph, quantizes: Callable[[str], bool]) -> bool:
    """Whether only float layers read the image; they can read its pixels directly."""
    readers = [node for node in graph.nodes if INPUT in node.inputs]
    return all(n.op in (CONVOLUTION, DENSE) and not quantizes(n.layer) for n in readers)


def _readers(graph: Graph) -> dict[str, list[tuple[int, Node]]]:
    found: dict[str, list[tuple[int, Node]]] = {}
    for place, node in enumerate(graph.nodes):
        for name in node.inputs:
            if isinstance(name, str):
                found.setdefault(name, []).append((place, node))
    return found


def _add_codes(
    found: MemoryPlan, graph: Graph, node: Node, place: int, quantizes: Callable[[str], bool]
) -> None:
    name = codes_of(node.inputs[0], node.layer)
    if quantizes(node.layer) and name not in found.buffers:
        size = math.prod(graph.shapes[node.inputs[0]])
        found.buffers[name] = Buffer(size, place, place)


def _to_one_reader(
    graph: Graph,
    readers: Mapping[str, list[tuple[int, Node]]],
    node: Node,
    quantizes: Callable[[str], bool],
) -> list[str] | None:
    """The values from a layer's output to its only quantizer, or None."""
    path = [node.output]
    while True:
        after = readers.get(path[-1], [])
        if len(after) != 1 or path[-1] == graph.output:
            return None
        reader = after[0][1]
        if reader.op in LAYERS:
            return path if reader.op in (CONVOLUTION, DENSE) and quantizes(reader.layer) else None
        if reader.op not in ("maximum", "minimum") or all(
            isinstance(x, str) for x in reader.inputs
        ):
            return None
        path.append(reader.output)


def _place(found: MemoryPlan) -> None:
    """Places buffers, largest first, at the lowest offset free during their lifetime."""
    placed: list[Buffer] = []
    for buffer in sorted(found.buffers.values(), key=lambda b: (-b.size, b.first)):
        others = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        for other in sorted(others, key=lambda b: b.offset):
            if buffer.offset + buffer.size <= other.offset:
                break
            buffer.offset = max(buffer.offset, _aligned(other.offset + other.size))
        placed.append(buffer)
        found.size = max(found.size, _aligned(buffer.offset + buffer.size))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
