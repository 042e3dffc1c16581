"""Convolutions of the published networks."""

from __future__ import annotations

from flax import nnx

from rfquant_jax.errors import ArgumentError
from rfquant_jax.ops.convolution import general_dilated

# PyTorch networks pad (size - 1) / 2 pixels on every side. TensorFlow networks use "SAME", which
# with stride 2 pads less at the top and the left.
SYMMETRIC, SAME = "symmetric", "SAME"


def conv(
    features_in: int,
    features_out: int,
    size: int,
    stride: int,
    rngs: nnx.Rngs,
    *,
    groups: int = 1,
    padding: str = SYMMETRIC,
) -> nnx.Conv:
    """A square convolution without bias, with He initialization (fan-out).

    Args:
      size: kernel size in pixels, odd.
      groups: feature groups; `features_in` for a depthwise convolution.
      padding: `SYMMETRIC` or `SAME`.

    Raises:
      ArgumentError: any other padding.
    """
    if padding not in (SYMMETRIC, SAME):
        raise ArgumentError("padding", padding, f"must be {SYMMETRIC} or {SAME}")
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2 if padding == SYMMETRIC else SAME,
        feature_group_count=groups,
        conv_general_dilated=general_dilated,
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )
