"""What blocks with a linear bottleneck share (MobileNetV2, Sandler et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from rfquant_jax.models.tap import Tap

Unit = tuple[nnx.Conv, nnx.BatchNorm, Tap]


def run_units(x: jax.Array, units: Sequence[Unit], *, residual: bool) -> jax.Array:
    """Convolution, BatchNorm and ReLU6 of each unit; the last one has no activation.

    What a unit passes on is marked as its convolution's feature: behind the activation, or, for
    the linear bottleneck, behind the BatchNorm.

    Args:
      residual: adds `x` to the result.
    """
    y = x
    for index, (convolution, norm, tap) in enumerate(units):
        y = norm(convolution(y))
        y = tap(y if index == len(units) - 1 else jax.nn.relu6(y))
    return x + y if residual else y
