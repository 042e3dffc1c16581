"""The integer reference runtime, in NumPy, with exact int32 accumulators.

    codes       = round(clip(input / step, lowest, highest))        half to even
    accumulator = sum over the kernel of weight code * input code   int32
    output      = scale * accumulator + bias                        for each channel

The accumulator of a residual addition is the sum of the codes of both inputs.

Operations between layers are computed in floating point, in the dtype of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from rfquant_jax.export.ir.graph import INPUT, Graph, Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import (
    CONSTANT,
    CONVOLUTION,
    LAYERS,
    OPERATIONS,
    RESIDUAL,
    windows,
)

Layer = Callable[..., Any]  # of a node and its inputs

EXACT_FLOAT32, EXACT_FLOAT64 = 2**24, 2**53  # integers up to these are exact


def run(model: IntegerModel, images: np.ndarray) -> np.ndarray:
    """Logits of normalised images, both float32 or both float64.

    Args:
      images: [N, H, W, C].

    Raises:
      TypeError: the images are not floating-point, for example raw pixels.
      ValueError: wrong shape, or values outside the range of normalised images.
    """
    check_images(model, images)

    def layer(node: Node, *inputs: np.ndarray) -> np.ndarray:
        data = model.layers[node.layer]
        codes = [quantize(data, x) for x in inputs]
        return finish(data, accumulate(node, data, *codes), images.dtype)

    return walk(model.graph, images, layer, model.constants, np)


def check_images(model: IntegerModel, images: np.ndarray) -> None:
    """Raises if the input is not a batch of normalised images; see `run`."""
    dtype, shape = getattr(images, "dtype", None), getattr(images, "shape", ())
    if dtype not in (np.float32, np.float64):
        raise TypeError(
            f"images of {dtype or type(images).__name__} must be normalised float32 or float64: "
            "(pixel / 255 - mean) / std"
        )
    wanted = model.graph.input_shape
    if len(shape) != 4 or tuple(shape[1:]) != tuple(wanted):
        raise ValueError(f"images {tuple(shape)} must have the shape {('N', *wanted)}")
    if not images.size:
        return
    least, most = images.min(), images.max()  # NaN, if any
    low, high = value_range(model)
    if not low <= least <= most <= high:
        raise ValueError(
            f"images with values from {least:g} to {most:g} must be normalised, "
            f"(pixel / 255 - mean) / std: here from {low:g} to {high:g}"
        )


def value_range(model: IntegerModel) -> tuple[float, float]:
    """The range of normalised images, with a tolerance for rounding.

    All finite numbers if the model has no mean and std.
    """
    mean, std = (_numbers(model.about.get(name)) for name in ("mean", "std"))
    if not len(mean) or len(mean) != len(std) or not (std > 0).all():
        largest = float(np.finfo(np.float32).max)
        return -largest, largest
    low, high = float((-mean / std).min()), float(((1 - mean) / std).max())
    room = 1e-3 * (high - low)
    return low - room, high + room


def _numbers(value: object) -> np.ndarray:
    """A list of numbers from a file as float64; empty if invalid."""
    valid = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
    return np.asarray(value if valid else [], np.float64)


def walk(
    graph: Graph, images: Any, layer: Layer, constants: Mapping[str, Any], xp: ModuleType
) -> Any:
    """Runs a graph in any array module.

    Args:
      layer: computes a node with parameters from its inputs.
      constants: arrays by node.
      xp: numpy or jax.numpy.
    """
    values = {INPUT: images}
    for place, node in enumerate(graph.nodes):
        inputs = [values[name] if isinstance(name, str) else name for name in node.inputs]
        if node.op in LAYERS:
            values[node.output] = layer(node, *inputs)
        elif node.op == CONSTANT:
            values[node.output] = xp.asarray(constants[node.output], images.dtype)[None]
        else:
            values[node.output] = OPERATIONS[node.op].compute(xp, inputs, node.attributes)
        for name in node.inputs:
            if graph.last_uses.get(name) == place:
                values.pop(name, None)
    return values[graph.output]


def quantize(data: LayerData, x: np.ndarray) -> np.ndarray:
    """The codes of a layer's input, as integers in x's dtype; x itself if not quantized."""
    if not data.quantizes_input:
        return x
    return np.rint(np.clip(x / x.dtype.type(data.input_step), *data.input_range))


def accumulate(node: Node, data: LayerData, codes: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """The accumulators of one layer: int32, or floating-point if an operand is not quantized.

    Integers are multiplied in a floating-point type that represents every product and partial sum
    exactly, in any order. The result equals int32 arithmetic bit for bit, at the speed of BLAS.

    Args:
      codes: [N, H, W, C] or [..., C], result of `quantize`.
      more: the codes of the second input of a residual addition.
    """
    if node.op == RESIDUAL:
        return sum(more, codes)
    if data.kernel is None:
        return codes
    dtype = codes.dtype
    if data.is_integer:
        dtype = np.float32 if data.largest_accumulator < EXACT_FLOAT32 else np.float64
    kernel, codes = data.kernel.astype(dtype), codes.astype(dtype)
    if node.op == CONVOLUTION:
        found = _convolve(codes, kernel, node.attributes)
    else:
        found = codes @ kernel.T
    return found.astype(np.int32) if data.is_integer else found


def finish(data: LayerData, accumulator: np.ndarray, dtype: type) -> np.ndarray:
    """The output of a layer from its accumulators, in `dtype`."""
    return accumulator.astype(dtype) * data.scale.astype(dtype) + data.bias.astype(dtype)


def _convolve(x: np.ndarray, kernel: np.ndarray, attributes: Mapping) -> np.ndarray:
    """`x[N, H, W, C]` with `kernel[O, KH, KW, C / groups]`, as sums over shifted images."""
    groups, outputs = attributes["groups"], len(kernel)
    kernel = kernel.reshape(groups, outputs // groups, *kernel.shape[1:])
    total = None
    places = windows(
        np,
        x,
        kernel.shape[2:4],
        attributes["strides"],
        attributes["padding"],
        attributes["dilation"],
    )
    for (i, j), part in places:
        product = _one_place(part, kernel[:, :, i, j])
        total = product if total is None else np.add(total, product, out=total)
    return total


def _one_place(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`x[N, H, W, C]` times `weights[groups, O / groups, C / groups]` at one window position."""
    groups, outputs, inputs = weights.shape
    if inputs == outputs == 1:
        return x * weights[:, 0, 0]
    if groups == 1:
        return x @ weights[0].T
    grouped = x.reshape(*x.shape[:-1], groups, 1, inputs)
    found = np.matmul(grouped, weights.transpose(0, 2, 1))
    return found.reshape(*x.shape[:-1], groups * outputs)
