"""Flat tensors, channels last, between the convolutions of the file for onnxruntime.

Its integer convolutions take channels last, and it moves their transpositions through other
operations in order to remove them. Around residual additions, it ends up with two transpositions of
each block. So everything between convolutions is computed on flat tensors [N, H * W * C]:

    Conv -> QuantizeLinear -> Transpose -> Reshape -> ... -> Reshape -> Transpose -> Conv

onnxruntime does not move transpositions through these Reshapes, which copy nothing, and then the
transpositions cancel those of its convolutions. Strided slices of pixels are faster, too.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, TO_LAST, Nodes
from rfquant_jax.export.ir.shapes import Shape


def flat_value(nodes: Nodes, x: str, shape: Shape) -> str:
    x = nodes.once("Transpose", [x], perm=TO_LAST)
    x= nodes.once("Reshape", [x, nodes.numbers([0, math.prod(shape)])])
    return nodes.once("Reshape", [x, nodes.numbers([0, *shape])])


def pixels(nodes: Nodes, x: str, shape: Shape) -> str:
    return x


def flat(nodes: Nodes, codes: Codes, shape: Shape) -> Codes:
    """The codes as a flat tensor; as they are if they are no image."""
    if codes.shape is not None or len(shape) != 3:
        return codes
    return replace(codes, name=nodes.once("Transpose", [codes.name], perm=TO_LAST), shape=tuple(shape))


def image(nodes: Nodes, codes: Codes) -> Codes:
    """The codes as [N, C, H, W], if they are an image."""
    if codes.shape is None:
        return codes
    x = nodes.once("Transpose", [codes.name], perm=TO_FIRST)
    return replace(codes, name=x, shape=None)
