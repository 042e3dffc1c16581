"""An integer model as a StableHLO artifact (`jax.export`): any batch size, several platforms.

The artifact holds packed kernels and unpacks them in every call. So it is as small as the integer
file, and a compiler cannot constant-fold the unpacking.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rfquant_jax.errors import UserError
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import CONVOLUTION, RESIDUAL, windows
from rfquant_jax.export.ir.packing import pack
from rfquant_jax.export.ir.runtime import EXACT_FLOAT32, walk
from rfquant_jax.runtime.files import replacing

_EXACT = jax.lax.Precision.HIGHEST


def write(path: Path, model: IntegerModel, platforms: Sequence[str], batch: int = 0) -> None:
    """Writes the artifact, and the model's `about` as JSON next to it.

    It maps normalised images `float32[batch, H, W, C]` to float32 logits.

    Args:
      platforms: target platforms, from "cpu", "cuda", "rocm" and "tpu".
      batch: fixed batch size; 0: any.
    """
    exported = export(model, platforms, batch)
    with replacing(path) as temporary:
        temporary.write_bytes(exported.serialize())
    with replacing(path.with_name(path.name + ".json")) as temporary:
        temporary.write_text(json.dumps(dict(model.about), indent=2) + "\n", encoding="utf-8")


def export(model: IntegerModel, platforms: Sequence[str], batch: int = 0) -> jax.export.Exported:
    """The artifact; see `write`."""
    size = batch or jax.export.symbolic_shape("batch")[0]
    images = jax.ShapeDtypeStruct((size, *model.graph.input_shape), jnp.float32)
    with _without_paths():
        return jax.export.export(jax.jit(program(model)), platforms=list(platforms))(images)


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Keeps source file names of this machine out of the lowered program."""
    wanted = {
        "jax_hlo_source_file_canonicalization_regex": ".*",
        "jax_traceback_in_locations_limit": 0,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def read(path: Path) -> jax.export.Exported:
    """Loads an artifact; its method `call` runs it.

    Raises:
      UserError: the file cannot be read or is not a StableHLO artifact.
    """
    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged flatbuffer can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: is damaged or not a StableHLO artifact ({reason})") from error


def program(model: IntegerModel) -> Callable[[jax.Array], jax.Array]:
    """The integer model as a JAX function, equivalent to `runtime.run`."""
    model = model.stored()
    packed = {
        name: jnp.asarray(pack(data.kernel, data.weight_bits))
        for name, data in model.layers.items()
        if data.kernel is not None and data.weight_bits <= 8
    }

    def layer(node: Node, *inputs: jax.Array) -> jax.Array:
        data = model.layers[node.layer]
        codes, *more = (_quantize(data, x) for x in inputs)
        if node.op == RESIDUAL:
            return sum(more, codes) * data.scale + data.bias
        kernel = data.kernel
        if node.layer in packed:
            held = jax.lax.optimization_barrier(packed[node.layer])
            kernel = unpack(held, data.weight_bits, data.kernel.size).reshape(data.kernel.shape)
        y = _accumulate(node, data, kernel, codes).astype(jnp.float32)
        return y * data.scale + data.bias

    return lambda images: walk(model.graph, images, layer, model.constants, jnp)


def unpack(packed: jax.Array, bits: int, count: int) -> jax.Array:
    """`packing.unpack` in JAX, int8[count]: eight codes of b bits take b bytes."""
    groups = -(-count // 8)
    rows = jnp.pad(packed, (0, groups * bits - len(packed))).reshape(groups, bits)
    rows = rows.astype(jnp.int32)
    lanes = []
    for lane in range(8):
        byte, shift = divmod(lane * bits, 8)
        value = rows[:, byte] >> shift
        if shift + bits > 8:
            value = value | (rows[:, byte + 1] << (8 - shift))
        lanes.append(value & ((1 << bits) - 1))
    codes = jnp.stack(lanes, axis=1).reshape(-1)[:count]
    return jnp.where(codes >> (bits - 1), codes - (1 << bits), codes).astype(jnp.int8)


def _quantize(data: LayerData, x: jax.Array) -> jax.Array:
    if not data.quantizes_input:
        return x
    return jnp.round(jnp.clip(x / jnp.float32(data.input_step), *data.input_range))


def _accumulate(node: Node, data: LayerData, kernel, codes: jax.Array) -> jax.Array:
    """The sums of products of one layer: exact int32, or float32 with an unquantized operand."""
    if kernel is None:
        return codes
    if node.op != CONVOLUTION:
        if not data.is_integer:
            return jnp.matmul(codes, kernel.astype(jnp.float32).T, precision=_EXACT)
        return codes.astype(jnp.int32) @ kernel.astype(jnp.int32).T
    if not data.is_integer:
        return _convolve(codes, jnp.asarray(kernel, jnp.float32), node.attributes)
    if kernel.shape[3] == 1 and node.attributes["groups"] == kernel.shape[0]:
        return _depthwise(codes.astype(jnp.int32), kernel.astype(jnp.int32), node.attributes)
    # GPU libraries lack these integer convolutions.
    return jax.lax.platform_dependent(
        codes,
        kernel,
        cpu=lambda q, k: integer_convolution(q, k, data, node.attributes),
        default=lambda q, k: exact_convolution(q, k, data, node.attributes),
    )


def integer_convolution(codes, kernel, data: LayerData, attributes: Mapping) -> jax.Array:
    """int32 accumulators from int8 operands, or from int32 if the input's codes exceed int8."""
    operand = jnp.int8 if data.input_range[1] < 128 else jnp.int32
    return _convolve(codes.astype(operand), kernel.astype(operand), attributes, jnp.int32)


def exact_convolution(codes, kernel, data: LayerData, attributes: Mapping) -> jax.Array:
    """The same from float32 convolutions with sums below 2^24, which are exact.

    A kernel that could exceed this is split into digits, `k = sum of digit * base^place`, where all
    but the highest digit are in [0, base).
    """
    largest, width = max(map(abs, data.input_range)), int(np.prod(kernel.shape[1:]))
    bits = 8
    if data.largest_accumulator >= EXACT_FLOAT32:
        bits = next(b for b in (4, 3, 2, 1) if width * largest * (1 << b) < EXACT_FLOAT32 or b == 1)
    kernel, total = kernel.astype(jnp.int32), None
    for place in range(-(-8 // bits)):
        last = (place + 1) * bits >= 8
        digit = kernel >> (place * bits)
        digit = digit if last else digit & ((1 << bits) - 1)
        # Rounded, because some convolution algorithms (Winograd, FFT) do not preserve integers.
        part = jnp.round(_convolve(codes, digit.astype(jnp.float32), attributes)).astype(jnp.int32)
        total = part if total is None else total + (part << (place * bits))
    return total


def _convolve(x, kernel, attributes: Mapping, result=None) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=attributes["strides"],
        padding=attributes["padding"],
        rhs_dilation=attributes["dilation"],
        feature_group_count=attributes["groups"],
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision=_EXACT,
        preferred_element_type=result,
    )


def _depthwise(x, kernel, attributes: Mapping) -> jax.Array:
    """A sum of shifted images: exact on all platforms, and fast on CPU."""
    parts = windows(
        jnp,
        x,
        kernel.shape[1:3],
        attributes["strides"],
        attributes["padding"],
        attributes["dilation"],
    )
    return sum(part * kernel[:, i, j, 0] for (i, j), part in parts)
