"""MobileNetV2 (Sandler et al., CVPR 2018), with names as in PyTorch ports."""

from __future__ import annotations

import jax
from flax import nnx

from rfquant_jax.models.inverted_residual import (
    BlockShape,
    Layout,
    Maker,
    block_shapes,
    run_network,
    run_units,
)
from rfquant_jax.nn.features import Feature

# expansion, channels, blocks, stride of the first block, kernel size (table 2 of the paper)
PUBLISHED = Layout(
    stages=(
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    )
)
# For images of 8 to 16 pixels; halves the resolution twice.
TINY = Layout(
    stages=((1, 8, 1, 1, 3), (4, 12, 2, 2, 3), (4, 20, 2, 2, 3)), stem=16, head=96, stem_stride=1
)


class ReLU6(nnx.Module):
    """min(max(x, 0), 6); a module, because it occupies an index in PyTorch's names."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu6(x)


class InvertedResidual(nnx.Module):
    """A block whose convolutions, BatchNorms and activations are numbered in one list.

    Args:
      name: dotted path of the block in the network.
    """

    def __init__(self, name: str, shape: BlockShape, make: Maker):
        self.residual = shape.residual()
        parts: list[nnx.Module] = []
        for convolution, norm in shape.units(make):
            parts += [convolution, norm, ReLU6()]
        self.conv = nnx.List(parts[:-1])  # the bottleneck is linear
        self.unit_features = nnx.List(
            [Feature(f"{name}.conv.{i}") for i in range(0, len(parts), 3)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        units = list(zip(self.conv[::3], self.conv[1::3], strict=True))
        return run_units(x, units, self.unit_features, residual=self.residual)


class MobileNetV2(nnx.Module):
    """Inverted residuals between a 3x3 stem and a 1x1 head.

    Args:
      layout: channels and strides at width 1.
      num_classes: number of logits.
      channels: channels of the image.
      dropout: dropout rate of the classifier's input.
      width: width multiplier, see `Layout.widened`.
      small_images: stride 1 in the stem and the first two stages, for images of 32 pixels.
      options: padding and epsilon, see `inverted_residual.Maker`.
    """

    def __init__(
        self,
        layout: Layout = PUBLISHED,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        dropout: float = 0.0,
        width: float = 1.0,
        small_images: bool = False,
        rngs: nnx.Rngs,
        **options,
    ):
        make = Maker(rngs, **options)
        layout = layout if width == 1.0 else layout.widened(width)
        layout = layout.for_small_images() if small_images else layout
        stem = make(channels, layout.stem, 3, layout.stem_stride)
        features: list[nnx.Module] = [nnx.List(stem)]
        for _, _, shape in block_shapes(layout):
            features.append(InvertedResidual(f"features.{len(features)}", shape, make))
        self.head_feature = Feature(f"features.{len(features)}.0")
        features.append(nnx.List(make(layout.stages[-1][1], layout.head)))
        self.features = nnx.List(features)
        self.classifier = nnx.List(
            [nnx.Dropout(dropout, rngs=rngs), nnx.Linear(layout.head, num_classes, rngs=rngs)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits float32[N, num_classes] of normalised images `x[N, H, W, channels]`."""
        stem, *blocks, head = self.features
        dropout, linear = self.classifier
        return run_network(x, stem, blocks, head, self.head_feature, lambda y: linear(dropout(y)))
