"""Activation memory on a device, computed before training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.export.ir.memory import plan
from rfquant_jax.export.trace.capture import capture
from rfquant_jax.export.trace.translate import UnsupportedNetwork
from rfquant_jax.quant.layers import QuantConv, QuantDense
from rfquant_jax.tasks.context import Run


def activation_bytes(run: Run) -> int | None:
    """Bytes of working memory of the C export for one image.

    Independent of bit-widths, because codes take one byte each. None if the network cannot be
    exported.
    """
    network = run.plan.convert(_filled(run.abstract_network))
    network.eval()
    try:
        found = capture(network, run.image_shape)
    except UnsupportedNetwork:
        return None
    quantizes = {
        name: isinstance(module, QuantConv | QuantDense) and module.input_quantizer is not None
        for name, module in found.modules.items()
    }
    return plan(found.graph, quantizes.__getitem__).size


def _filled(abstract: nnx.Module) -> nnx.Module:
    """The network filled with arbitrary values, which is faster than initialization."""
    graphdef, state = nnx.split(abstract)
    return nnx.merge(graphdef, jax.tree.map(_fill, state))


def _fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    # Not all equal, because step sizes are computed from the deviation.
    return jnp.asarray(np.resize([1, -1], leaf.shape), leaf.dtype)


def activation_line(size: int | None) -> str:
    """A sentence below the cost table."""
    if size is None:
        return "peak activation memory: unknown, because the network cannot be exported"
    return f"peak activation memory: {size} bytes for one image (C export, any configuration)"
