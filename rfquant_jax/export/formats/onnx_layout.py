"""Channels last between the convolutions of the file for onnxruntime.

Its integer convolutions take channels last, and it moves the transpositions around them through
other operations in order to remove them. Around residual additions of [N, C, H, W], it ends up with
two transpositions for each block. So these are written for [N, H, W, C], with transpositions that
cancel those of the convolutions:

    Conv -> QuantizeLinear -> Transpose -> ... -> Transpose -> DequantizeLinear -> Conv

onnxruntime does not move a transposition through a Reshape. One after the first, floating-point
convolution keeps it from moving that layer's transposition into the first block, and from there to
all others. It copies nothing.
"""

from __future__ import annotations

from dataclasses import replace

from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import TO_FIRST, TO_LAST, Nodes
from rfquant_jax.export.ir.shapes import Shape


def fixed_last(nodes: Nodes, x: str, shape: Shape) -> str:
    """A tensor [N, C, H, W] with channels last, in a way that onnxruntime does not undo.

    Args:
      shape: (H, W, C).
    """
    x = nodes.once("Transpose", [x], perm=TO_LAST)
    return nodes.once("Reshape", [x, nodes.numbers([0, *shape])])


def channels_last(nodes: Nodes, codes: Codes) -> Codes:
    """The codes of an image as [N, H, W, C]."""
    if codes.last:
        return codes
    return replace(codes, name=nodes.once("Transpose", [codes.name], perm=TO_LAST), last=True)


def channels_first(nodes: Nodes, codes: Codes) -> Codes:
    """The codes as [N, C, H, W], if they are an image."""
    if not codes.last:
        return codes
    return replace(codes, name=nodes.once("Transpose", [codes.name], perm=TO_FIRST), last=False)
