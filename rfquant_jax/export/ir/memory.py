"""Static memory planning of activations for the C export.

A layer with a quantized input reads codes of one byte. If only such layers read another layer's
output, it writes the codes directly, see `routes`. Everything else is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rfquant_jax.export.ir.graph import INPUT, Graph, Node
from rfquant_jax.export.ir.operations import CONSTANT, CONVOLUTION, DENSE, RESIDUAL
from rfquant_jax.export.ir.routes import WRITERS, Route, Routes

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
      routes: by the name of a layer's output, where the layer writes codes instead.
      size: total bytes.
    """

    buffers: dict[str, Buffer] = field(default_factory=dict)
    routes: dict[str, tuple[Route, ...]] = field(default_factory=dict)
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
    found, ways = MemoryPlan(), Routes(graph, quantizes)
    if not image_stays(graph, quantizes):
        size = 4 * math.prod(graph.input_shape)
        found.buffers[INPUT] = Buffer(size, 0, graph.last_uses.get(INPUT, 0))
    skipped: set[str] = set()
    for place, node in enumerate(graph.nodes):
        if node.op in WRITERS:
            _add_layer(found, graph, node, place, quantizes)
            if routes := ways.of(node):
                found.routes[node.output] = routes
                skipped |= {node.output, *ways.clipped(node)}
                for route in routes:
                    skipped |= {move.output for move in route.moves}
                    _add_route(found, graph, route, place, ways.places)
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


def _add_layer(
    found: MemoryPlan, graph: Graph, node: Node, place: int, quantizes: Callable[[str], bool]
) -> None:
    """Adds what a layer needs while it runs: unpacked weights, and codes of float inputs."""
    if node.op != RESIDUAL:
        row = math.prod(node.attributes["kernel"][1:])
        found.buffers[scratch_of(node.layer)] = Buffer(row, place, place)
    for value in node.inputs:
        name = codes_of(value, node.layer)
        if quantizes(node.layer) and name not in found.buffers:
            found.buffers[name] = Buffer(math.prod(graph.shapes[value]), place, place)


def _add_route(
    found: MemoryPlan, graph: Graph, route: Route, place: int, places: Mapping[str, int]
) -> None:
    """Adds the buffers of codes from a layer to a reader."""
    for value, node in zip(route.values, (*route.moves, route.reader), strict=True):
        last, name = places[node.output], codes_of(value, route.reader.layer)
        buffer = Buffer(math.prod(graph.shapes[value]), place, last)
        held = found.buffers.setdefault(name, buffer)
        held.last = max(held.last, last)  # a residual addition may read one value twice
        place = last


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
