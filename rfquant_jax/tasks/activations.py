"""Activation memory on a device, computed before training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.export.ir import memory
from rfquant_jax.export.trace.capture import capture
from rfquant_jax.export.trace.values import UnsupportedNetwork
from rfquant_jax.quant.layers import QuantConv, QuantDense
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.quant.residual import QuantResidualAdd


def activation_bytes(
    abstract: nnx.Module, plan: QuantizationPlan, image_shape: tuple[int, int, int]
) -> tuple[int | None, str]:
    """Bytes of working memory of the C export for one image.

    Independent of bit-widths, because codes take one byte each.

    Args:
      abstract: the plain network with abstract arrays.
      plan: its quantization plan.

    Returns:
      the bytes, or None and the reason if the network cannot be exported.
    """
    network = plan.convert(_filled(abstract))
    network.eval()
    try:
        found = capture(network, image_shape)
    except UnsupportedNetwork as error:
        return None, str(error)
    quantizes = {
        name: isinstance(module, QuantConv | QuantDense | QuantResidualAdd)
        and module.input_quantizer is not None
        for name, module in found.modules.items()
    }
    return memory.plan(found.graph, quantizes.__getitem__).size, ""


def _filled(abstract: nnx.Module) -> nnx.Module:
    """The network filled with arbitrary values, which is faster than initialization."""
    graphdef, state = nnx.split(abstract)
    return nnx.merge(graphdef, jax.tree.map(_fill, state))


def _fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    # Not all equal, because step sizes are computed from the deviation.
    return jnp.asarray(np.resize([1, -1], leaf.shape), leaf.dtype)


def activation_line(size: int | None, reason: str = "") -> str:
    """A sentence below the cost table; `reason` says why the network cannot be exported."""
    if size is None:
        reason = reason or "the network cannot be exported"
        return f"peak activation memory: unknown, because {reason}"
    return f"peak activation memory: {size} bytes for one image (C export, any configuration)"
