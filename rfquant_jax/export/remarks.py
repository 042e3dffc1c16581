"""What a user should know of a network before it is trained: what is not switched or exported."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.export.trace.capture import Captured, capture
from rfquant_jax.export.trace.values import UnsupportedNetwork
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.quant.remarks import normalization_remarks


def remarks(network: nnx.Module, plan: QuantizationPlan) -> list[str]:
    """What is special about a network, one line each: nothing that prevents training.

    The lines name layers without switchable BatchNorm, other normalizations, and the line of the
    network's code that prevents an export to integer models. The tasks `cost` and `train` print
    them.

    Args:
      network: the plain network of the plan; its arrays may be abstract.

    Example:
      >>> rfq.remarks(net, plan)
      []
    """
    lines = normalization_remarks(network, plan.layers)
    try:
        captured(network, plan)
    except UnsupportedNetwork as error:
        lines.append(f"warning: {error}")
    return lines


def captured(network: nnx.Module, plan: QuantizationPlan) -> Captured:
    """The graph of a plain network as an export would see it, whatever its weights.

    Raises:
      UnsupportedNetwork: it cannot be exported.
    """
    coupled = plan.convert(_filled(network), initialise_steps=False)
    coupled.eval()
    return capture(coupled, plan.image_shape)


def _filled(network: nnx.Module) -> nnx.Module:
    """The network with numbers in place of abstract arrays, which is faster than initialization."""
    graphdef, state = nnx.split(network)
    return nnx.merge(graphdef, jax.tree.map(_fill, state))


def _fill(leaf: jax.ShapeDtypeStruct | jax.Array) -> jax.Array:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    # Neither equal nor 1 or 0, or the graph would lose operations that trained values need.
    values = np.full(leaf.shape, 0.75)
    values.reshape(-1)[1::2] = -0.5
    return jnp.asarray(values, leaf.dtype)
