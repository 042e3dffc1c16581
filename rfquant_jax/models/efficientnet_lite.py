"""EfficientNet-Lite-B0 (Tan & Le, ICML 2019, without squeeze-and-excitation), with timm's names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.models.inverted import run_units
from rfquant_jax.models.layers import SYMMETRIC, conv
from rfquant_jax.models.norm import BatchNorm
from rfquant_jax.models.tap import Tap

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
STEM, HEAD = 32, 1280


class Block(nnx.Module):
    """1x1 expansion (unless it is 1), depthwise convolution, 1x1 linear bottleneck.

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
        size: int,
        common: dict,
        rngs: nnx.Rngs,
    ):
        hidden = expansion * width_in
        self.residual = stride == 1 and width_in == width
        if expansion != 1:
            self.order = ("conv_pw", "conv_dw", "conv_pwl")
            widths = {"conv_pw": (width_in, hidden), "conv_pwl": (hidden, width)}
        else:  # conv_pw is the bottleneck
            self.order = ("conv_dw", "conv_pw")
            widths = {"conv_pw": (hidden, width)}
        widths["conv_dw"] = (hidden, hidden)
        for index, part in enumerate(self.order, start=1):
            depthwise = part == "conv_dw"
            setattr(
                self,
                part,
                conv(
                    *widths[part],
                    size if depthwise else 1,
                    stride if depthwise else 1,
                    rngs,
                    groups=hidden if depthwise else 1,
                    padding=common["padding"],
                ),
            )
            norm = BatchNorm(widths[part][1], epsilon=common["epsilon"], rngs=rngs)
            setattr(self, f"bn{index}", norm)
        self.taps = nnx.List([Tap(f"{name}.{part}") for part in self.order])

    def __call__(self, x: jax.Array) -> jax.Array:
        norms = [getattr(self, f"bn{index}") for index in range(1, len(self.order) + 1)]
        convolutions = [getattr(self, part) for part in self.order]
        units = list(zip(convolutions, norms, self.taps, strict=True))
        return run_units(x, units, residual=self.residual)


class EfficientNetLite(nnx.Module):
    """16 blocks between a 3x3 stem of stride 2 and a 1x1 head; ReLU6 throughout.

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
        self.conv_stem = conv(channels, STEM, 3, 2, rngs, padding=padding)
        self.bn1 = BatchNorm(STEM, epsilon=epsilon, rngs=rngs)
        stages, width_in = [], STEM
        for number, (expansion, width, blocks, stride, size) in enumerate(STAGES):
            stage = []
            for index in range(blocks):
                name, step = f"blocks.{number}.{index}", stride if index == 0 else 1
                stage.append(Block(name, width_in, width, step, expansion, size, common, rngs))
                width_in = width
            stages.append(nnx.List(stage))
        self.blocks = nnx.List(stages)
        self.conv_head = conv(width_in, HEAD, 1, 1, rngs)
        self.bn2 = BatchNorm(HEAD, epsilon=epsilon, rngs=rngs)
        self.head_tap = Tap("conv_head")
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classifier = nnx.Linear(HEAD, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits float32[N, num_classes] of normalised images `x[N, H, W, channels]`."""
        x = jax.nn.relu6(self.bn1(self.conv_stem(x)))
        for stage in self.blocks:
            for block in stage:
                x = block(x)
        x = self.head_tap(jax.nn.relu6(self.bn2(self.conv_head(x))))
        return self.classifier(self.dropout(jnp.mean(x, axis=(1, 2))))
