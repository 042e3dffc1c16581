"""EfficientNet-Lite-B0 (Tan & Le, ICML 2019, without squeeze-and-excitation), with timm's names."""

from __future__ import annotations

import jax
from flax import nnx

from rfquant_jax.models.inverted_residual import (
    HEAD,
    STEM,
    BlockShape,
    Layout,
    Maker,
    block_shapes,
    run_network,
    run_units,
)
from rfquant_jax.nn.features import Feature

# expansion, channels, blocks, stride of the first block, kernel size (table 1 of the paper)
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Block(nnx.Module):
    """A block with the convolutions conv_pw, conv_dw and conv_pwl.

    Without an expansion, the convolutions are conv_dw and conv_pw, the bottleneck.

    Args:
      name: dotted path of the block in the network.
    """

    def __init__(self, name: str, shape: BlockShape, make: Maker):
        self.residual = shape.residual()
        units = shape.units(make)
        expanded = len(units) == 3
        self.order = ("conv_pw", "conv_dw", "conv_pwl") if expanded else ("conv_dw", "conv_pw")
        for index, (part, (convolution, norm)) in enumerate(zip(self.order, units, strict=True)):
            setattr(self, part, convolution)
            setattr(self, f"bn{index + 1}", norm)
        self.unit_features = nnx.List([Feature(f"{name}.{part}") for part in self.order])

    def __call__(self, x: jax.Array) -> jax.Array:
        units = [
            (getattr(self, part), getattr(self, f"bn{index + 1}"))
            for index, part in enumerate(self.order)
        ]
        return run_units(x, units, self.unit_features, residual=self.residual)


class EfficientNetLite(nnx.Module):
    """16 blocks between a 3x3 stem of stride 2 and a 1x1 head; ReLU6 throughout.

    Args:
      num_classes: number of logits.
      channels: channels of the image.
      dropout: dropout rate of the classifier's input.
      options: padding and epsilon, see `inverted_residual.Maker`.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **options,
    ):
        make = Maker(rngs, **options)
        self.conv_stem, self.bn1 = make(channels, STEM, 3, 2)
        stages: list[list[Block]] = [[] for _ in STAGES]
        for stage, index, shape in block_shapes(Layout(STAGES)):
            stages[stage].append(Block(f"blocks.{stage}.{index}", shape, make))
        self.blocks = nnx.List([nnx.List(stage) for stage in stages])
        self.conv_head, self.bn2 = make(STAGES[-1][1], HEAD)
        self.head_feature = Feature("conv_head")
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classifier = nnx.Linear(HEAD, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits float32[N, num_classes] of normalised images `x[N, H, W, channels]`."""
        return run_network(
            x,
            (self.conv_stem, self.bn1),
            [block for stage in self.blocks for block in stage],
            (self.conv_head, self.bn2),
            self.head_feature,
            lambda y: self.classifier(self.dropout(y)),
        )
