"""MobileNetV2 (Sandler et al., CVPR 2018), width 1.0, with names as in PyTorch ports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.models.inverted import run_units
from rfquant_jax.models.layers import SYMMETRIC, conv
from rfquant_jax.models.norm import BatchNorm
from rfquant_jax.models.tap import Tap

# expansion, channels, blocks, stride of the first block (table 2 of the paper)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280


class ReLU6(nnx.Module):
    """min(max(x, 0), 6); a module, because it has a place of its own in the numbering of names."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu6(x)


class InvertedResidual(nnx.Module):
    """1x1 expansion (unless it is 1), 3x3 depthwise, 1x1 linear bottleneck.

    Args:
      name: dotted path of the block in the network.
      common: padding of the convolutions and epsilon of the BatchNorms.
    """

    def __init__(
        self,
        name: str,
        width_in: int,
        width: int,
        stride: int,
        expansion: int,
        common: dict,
        rngs: nnx.Rngs,
    ):
        hidden = expansion * width_in
        self.residual = stride == 1 and width_in == width
        padding, epsilon = common["padding"], common["epsilon"]

        def norm(features: int) -> BatchNorm:
            return BatchNorm(features, epsilon=epsilon, rngs=rngs)

        parts: list[nnx.Module] = []
        if expansion != 1:
            parts += [conv(width_in, hidden, 1, 1, rngs), norm(hidden), ReLU6()]
        depthwise = conv(hidden, hidden, 3, stride, rngs, groups=hidden, padding=padding)
        parts += [depthwise, norm(hidden), ReLU6()]
        parts += [conv(hidden, width, 1, 1, rngs), norm(width)]
        self.conv = nnx.List(parts)
        self.taps = nnx.List([Tap(f"{name}.conv.{i}") for i in range(0, len(parts), 3)])

    def __call__(self, x: jax.Array) -> jax.Array:
        units = list(zip(self.conv[::3], self.conv[1::3], self.taps, strict=True))
        return run_units(x, units, residual=self.residual)


class MobileNetV2(nnx.Module):
    """17 blocks between a 3x3 stem of stride 2 and a 1x1 head.

    Args:
      num_classes: length of the logits.
      channels: channels of the image.
      dropout: share of the classifier's inputs that training drops.
      padding: `layers.SYMMETRIC` or, for weights trained with TensorFlow, `layers.SAME`.
      epsilon: of the BatchNorms; 1e-3 for weights trained with TensorFlow.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        dropout: float = 0.0,
        padding: str = SYMMETRIC,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ):
        common = {"padding": padding, "epsilon": epsilon}

        def unit(width_in: int, width: int, size: int, stride: int) -> nnx.List:
            norm = BatchNorm(width, epsilon=epsilon, rngs=rngs)
            return nnx.List([conv(width_in, width, size, stride, rngs, padding=padding), norm])

        features: list[nnx.Module] = [unit(channels, STEM, 3, 2)]
        width_in = STEM
        for expansion, width, blocks, stride in STAGES:
            for index in range(blocks):
                name, step = f"features.{len(features)}", stride if index == 0 else 1
                features.append(
                    InvertedResidual(name, width_in, width, step, expansion, common, rngs)
                )
                width_in = width
        self.head_tap = Tap(f"features.{len(features)}.0")
        features.append(unit(width_in, HEAD, 1, 1))
        self.features = nnx.List(features)
        self.classifier = nnx.List(
            [nnx.Dropout(dropout, rngs=rngs), nnx.Linear(HEAD, num_classes, rngs=rngs)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits float32[N, num_classes] of normalised images `x[N, H, W, channels]`."""
        (stem, stem_norm), *blocks, (head, head_norm) = self.features
        x = jax.nn.relu6(stem_norm(stem(x)))
        for block in blocks:
            x = block(x)
        x = self.head_tap(jax.nn.relu6(head_norm(head(x))))
        dropout, linear = self.classifier
        return linear(dropout(jnp.mean(x, axis=(1, 2))))
