"""The compute type: what activations are held in, and the operands of convolutions.

Parameters, BatchNorm statistics, step sizes, codes and everything from the logits on stay in
float32, whatever it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

AUTO = "auto"
TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_type(name: str) -> DTypeLike:
    """The compute type that `config.precision` asks for.

    Args:
      name: one of `TYPES`, or `AUTO`: bfloat16 on GPUs (nothing was measured on one), else float32.
    """
    if name == AUTO:
        name = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    return TYPES[name]


def compute_in(network: nnx.Module, dtype: DTypeLike) -> nnx.Module:
    """Lets every plain convolution and dense layer of a network compute in `dtype`.

    Their parameters stay as they are, and so do BatchNorms: they compute in float32 and return
    what they were given. Quantized layers take over what was asked of the plain ones. What a
    network's own code does with float32 arrays of its own is float32, up to the next layer.

    Returns:
      the network itself.
    """
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv | nnx.Linear):
            # In float32 nothing has to be cast; without casts a network can run in float64, too.
            module.dtype = None if dtype == jnp.float32 else dtype
    return network
