"""The compute dtype: that of activations and of convolution operands.

Parameters, BatchNorm statistics, step sizes, codes, logits and losses are always float32.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rfquant_jax.runtime.backend import backend

AUTO = "auto"
TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_type(name: str) -> DTypeLike:
    """The compute dtype of a name.

    Args:
      name: one of `TYPES`, or `AUTO`: bfloat16 on GPU (not measured), else float32.
    """
    if name == AUTO:
        name = "bfloat16" if backend() == "gpu" else "float32"
    return TYPES[name]


def compute_in(network: nnx.Module, dtype: DTypeLike) -> nnx.Module:
    """Sets the compute dtype of every plain convolution and dense layer of a network.

    Parameters and BatchNorms do not change: BatchNorms compute in float32 and return the dtype of
    their input. Quantized layers inherit the dtype of the plain ones. Other operations on float32
    arrays in the network's own code stay float32 up to the next layer.

    Returns:
      the network itself.
    """
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv | nnx.Linear):
            # float32 needs no casts, and without casts a network can also run in float64.
            module.dtype = None if dtype == jnp.float32 else dtype
    return network
