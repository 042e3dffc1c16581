"""The quantizers that read a layer's output, and whether layer and quantizer can be fused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import LAYERS
from rfquant_jax.export.ir.routes import bound_of, moves_codes
from rfquant_jax.export.ir.runtime import quantize


@dataclass(frozen=True)
class Quantizer:
    """The quantizer of a layer's input; layers with equal quantizers can share codes.

    Attributes:
      bits, signed, step: as in `LayerData`.
    """

    bits: int
    signed: bool
    step: float

    @classmethod
    def of(cls, data: LayerData) -> Quantizer:
        return cls(data.input_bits, data.input_signed, data.input_step)


@dataclass(frozen=True)
class Consumer:
    """A quantizer that reads a layer's output, after clipping activations.

    Attributes:
      value: name of the quantized value.
      skipped: names of the values between layer and quantizer, including `value`.
      reader: one of the layers that read the codes.
      target: its quantizer, with the bounds of the activations folded in.
      moves: slices and paddings between the quantized value and the reader.
    """

    value: str
    skipped: tuple[str, ...]
    reader: LayerData
    target: Target
    moves: tuple[Node, ...] = ()


class Consumers:
    """The nodes that read each value of a model's graph."""

    def __init__(self, model: IntegerModel):
        self._model = model
        self._readers: dict[str, list[Node]] = {}
        for node in model.graph.nodes:
            for name in node.inputs:
                if isinstance(name, str):
                    self._readers.setdefault(name, []).append(node)

    def of(self, node: Node) -> Consumer | None:
        """The quantizer after a layer, or None if the layer's float output is needed."""
        found, floats = self.every(node)
        alone = len(found) == 1 and not floats and not found[0].moves
        return found[0] if alone else None

    def every(self, node: Node) -> tuple[list[Consumer], bool]:
        """The different quantizers after a layer, and whether its float output is needed, too."""
        clips: list[Node] = []
        name = node.output
        while (clip := self.only_clip(name)) is not None:
            clips.append(clip)
            name = clip.output
        readers, floats = self._readers.get(name, []), name == self._model.graph.output
        skipped = tuple(clip.output for clip in clips)
        found: dict[tuple, Consumer] = {}
        for reader in readers:
            moves, reader = self._moved(reader)
            data = self._model.layers[reader.layer] if reader.op in LAYERS else None
            if data is None or not data.quantizes_input:
                floats = True
                continue
            target, names = target_of(data, clips), tuple(move.output for move in moves)
            one = Consumer(name, skipped + names, data, target, moves)
            found.setdefault((Quantizer.of(data), names), one)
        return list(found.values()), floats or not readers

    def _moved(self, reader: Node) -> tuple[tuple[Node, ...], Node]:
        """The slices and paddings from a reader on, and the node that reads their result.

        A value with several readers, or one that is the network's output, ends them.
        """
        moves: list[Node] = []
        while moves_codes(reader) and reader.output != self._model.graph.output:
            readers = self._readers.get(reader.output, [])
            if len(readers) != 1:
                break
            moves.append(reader)
            (reader,) = readers
        return tuple(moves), reader

    def only_clip(self, name: str) -> Node | None:
        """The node that reads `name`, if it is the only reader and clips with a constant."""
        readers = self._readers.get(name, [])
        alone = len(readers) == 1 and name != self._model.graph.output
        return readers[0] if alone and bound_of(readers[0]) is not None else None


def target_of(data: LayerData, clips: Iterable[Node]) -> Target:
    """The quantizer with preceding activations folded into its range of codes.

    Quantization is monotone: the code of max(x, bound) is the larger of the two codes.
    """
    low, high = data.input_range
    for clip in clips:
        code = int(quantize(data, np.float32([bound_of(clip)]))[0])
        limit = max if clip.op == "maximum" else min
        low, high = limit(low, code), limit(high, code)
    return Target(data.input_step, low, high)
