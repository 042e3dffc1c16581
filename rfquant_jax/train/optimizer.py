"""The optimizer: clipping, then SGD with Nesterov momentum for weights and Adam for step sizes.

Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.quant.layers import StepSize
from rfquant_jax.quant.lsq import MIN_STEP
from rfquant_jax.runtime.setting import BELOW_ONE, POSITIVE, documented, setting

WEIGHT_GROUP, STEP_GROUP = "weights", "step_sizes"


@documented
@dataclass(frozen=True)
class OptimizerSettings:
    """Constants of the update."""

    clip: float = setting(1.0, "maximum magnitude of a gradient element", POSITIVE)
    momentum: float = setting(
        0.9, "Nesterov momentum of SGD, for all parameters except step sizes", BELOW_ONE
    )
    weight_decay: float = setting(2.5e-5, "L2, on convolution kernels")
    adam_b1: float = setting(0.9, "Adam for step sizes: decay of the first moment", BELOW_ONE)
    adam_b2: float = setting(0.999, "Adam for step sizes: decay of the second moment", BELOW_ONE)
    adam_epsilon: float = setting(1e-8, "Adam for step sizes: epsilon", POSITIVE)


def make_optimizer(
    functional: FunctionalNetwork, settings: OptimizerSettings
) -> optax.GradientTransformation:
    """Maps gradients to update directions; `descend` applies the learning rates.

    Every gradient element is clipped. Weights, biases and BatchNorm parameters use SGD with
    Nesterov momentum, with L2 decay of convolution kernels added before it. Step sizes use Adam.
    """
    steps = functional.names_of(StepSize)
    kernels = convolution_kernels(functional)
    weights = optax.chain(
        optax.clip(settings.clip),
        optax.add_decayed_weights(
            settings.weight_decay, mask=lambda tree: {n: n in kernels for n in tree}
        ),
        optax.trace(settings.momentum, nesterov=True),
    )
    adam = optax.chain(
        optax.clip(settings.clip),
        optax.scale_by_adam(settings.adam_b1, settings.adam_b2, settings.adam_epsilon),
    )
    groups = {name: STEP_GROUP if name in steps else WEIGHT_GROUP for name in functional.params}
    return optax.partition({WEIGHT_GROUP: weights, STEP_GROUP: adam}, groups)


def convolution_kernels(functional: FunctionalNetwork) -> frozenset[str]:
    """Names of the parameters with weight decay: four-dimensional kernels."""
    return frozenset(
        name
        for name in functional.names_of(nnx.Param)
        if name.endswith("kernel") and functional.params[name].ndim == 4
    )


def descend(
    params: Arrays, directions: Arrays, steps: frozenset[str], rate: jax.Array, step_rate: jax.Array
) -> tuple[Arrays, jax.Array]:
    """`params - rate * directions`; step sizes have their own rate and a floor, `MIN_STEP`.

    NaN in a direction propagates, also through the floor of step sizes, so that `Update` sees it
    and skips the update.

    Returns:
      the new parameters, and the number of step-size elements that were clamped, int32[].
    """
    moved, floored = {}, jnp.zeros((), jnp.int32)
    for name, value in params.items():
        if name in steps:
            step = value - step_rate * directions[name]
            floored = floored + jnp.sum(step < MIN_STEP)
            moved[name] = jnp.maximum(step, MIN_STEP)
        else:
            moved[name] = value - rate * directions[name]
    return moved, floored


def move_ema(ema: Arrays, values: Arrays, decay: float) -> Arrays:
    """The exponential moving average after one more update."""
    return {name: decay * ema[name] + (1 - decay) * value for name, value in values.items()}
