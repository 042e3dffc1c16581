"""How codes get from a layer to the layers that read them, without a float in between.

Clips by constants are folded into the quantizer. Slices, and padding with zeros, move codes: they
commute with quantization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rfquant_jax.export.ir.graph import Graph, Node
from rfquant_jax.export.ir.operations import CONVOLUTION, DENSE, RESIDUAL

WRITERS = (CONVOLUTION, DENSE, RESIDUAL)  # layers that can write codes


@dataclass(frozen=True)
class Route:
    """The way of a layer's codes to one reader.

    Attributes:
      clips: nodes that clip the layer's output.
      moves: slices and paddings of the clipped value.
      reader: the layer that quantizes the result.
      values: names of the clipped value and of the results of the moves, the last of which is read.
    """

    clips: tuple[Node, ...]
    moves: tuple[Node, ...]
    reader: Node
    values: tuple[str, ...]


class Routes:
    """The routes of a graph.

    Args:
      quantizes: whether the layer of this name reads codes.

    Attributes:
      places: index of each node, by the name of its output.
    """

    def __init__(self, graph: Graph, quantizes: Callable[[str], bool]):
        self._graph, self._quantizes = graph, quantizes
        self.places = {node.output: place for place, node in enumerate(graph.nodes)}
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(x for x in node.inputs if isinstance(x, str)):
                self._readers.setdefault(name, []).append(node)

    def of(self, node: Node) -> tuple[Route, ...]:
        """The routes to all readers of a layer's output; () if a reader needs floats."""
        clips = self._clips(node)
        value = clips[-1].output if clips else node.output
        readers = self._readers_of(value)
        found = [self._route(clips, value, reader) for reader in readers]
        return () if None in found else tuple(route for route in found if route is not None)

    def clipped(self, node: Node) -> tuple[str, ...]:
        """Names of the values after the clips of a layer's output."""
        return tuple(clip.output for clip in self._clips(node))

    def _readers_of(self, value: str) -> list[Node]:
        """The readers of a value; none of the logits, which are floats."""
        return [] if value == self._graph.output else self._readers.get(value, [])

    def _clips(self, node: Node) -> tuple[Node, ...]:
        """The clips between a layer and its readers, as far as each is the only reader."""
        found: list[Node] = []
        while True:
            readers = self._readers_of(found[-1].output if found else node.output)
            if len(readers) != 1 or bound_of(readers[0]) is None:
                return tuple(found)
            found.append(readers[0])

    def _route(self, clips: tuple[Node, ...], value: str, reader: Node) -> Route | None:
        moves: list[Node] = []
        while moves_codes(reader):
            moves.append(reader)
            readers = self._readers_of(reader.output)
            if len(readers) != 1:
                return None
            (reader,) = readers
        if reader.op not in WRITERS or not self._quantizes(reader.layer):
            return None
        return Route(clips, tuple(moves), reader, (value, *(move.output for move in moves)))


def bound_of(node: Node) -> float | None:
    """The number that a `maximum` or `minimum` clips with; None for any other node."""
    if node.op not in ("maximum", "minimum"):
        return None
    return next((x for x in node.inputs if not isinstance(x, str)), None)


def moves_codes(node: Node) -> bool:
    """Whether a node rearranges values, or adds zeros, so that it can do so with codes."""
    return node.op == "slice" or (node.op == "pad" and node.attributes["value"] == 0)
