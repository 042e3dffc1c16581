"""Building blocks of networks with inverted residuals (MobileNetV2, Sandler et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.models.layers import SYMMETRIC, conv
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature
from rfquant_jax.nn.residual import ResidualAdd

STEM, HEAD = 32, 1280  # channels of the first and the last convolution at width 1
ConvNorm = tuple[nnx.Conv, BatchNorm]


@dataclass(frozen=True)
class Maker:
    """Builds the convolutions of one network, each with its BatchNorm.

    Attributes:
      padding: `layers.SYMMETRIC` or, for weights trained with TensorFlow, `layers.SAME`.
      epsilon: of the BatchNorms; 1e-3 for weights trained with TensorFlow.
    """

    rngs: nnx.Rngs
    padding: str = SYMMETRIC
    epsilon: float = 1e-5

    def __call__(
        self, width_in: int, width: int, size: int = 1, stride: int = 1, groups: int = 1
    ) -> ConvNorm:
        """A convolution with a kernel of `size` x `size`, and its BatchNorm."""
        convolution = conv(
            width_in, width, size, stride, self.rngs, groups=groups, padding=self.padding
        )
        return convolution, BatchNorm(width, epsilon=self.epsilon, rngs=self.rngs)


@dataclass(frozen=True)
class BlockShape:
    """1x1 expansion (unless it is 1), depthwise convolution, 1x1 linear bottleneck."""

    width_in: int
    width: int
    stride: int
    expansion: int
    size: int

    def residual(self) -> ResidualAdd | None:
        """What adds the block's input to its output; None if it does not."""
        return ResidualAdd() if self.stride == 1 and self.width_in == self.width else None

    def units(self, make: Maker) -> list[ConvNorm]:
        """The block's convolutions in forward order."""
        hidden = self.expansion * self.width_in
        expansion = [make(self.width_in, hidden)] if self.expansion != 1 else []
        depthwise = make(hidden, hidden, self.size, self.stride, hidden)
        return [*expansion, depthwise, make(hidden, self.width)]


@dataclass(frozen=True)
class Layout:
    """Channels and strides of a network.

    Attributes:
      stages: (expansion, channels, blocks, stride of the first block, kernel size) of each stage.
      stem, head: channels of the first and of the last convolution.
      stem_stride: stride of the first convolution.
    """

    stages: tuple[tuple[int, ...], ...]
    stem: int = STEM
    head: int = HEAD
    stem_stride: int = 2

    def widened(self, width: float) -> Layout:
        """The layout with `width` times the channels, rounded as in the paper's reference code.

        The head is never narrower than at width 1.
        """
        stages = tuple((e, _rounded(c * width), *rest) for e, c, *rest in self.stages)
        head = _rounded(self.head * max(width, 1.0))
        return replace(self, stages=stages, stem=_rounded(self.stem * width), head=head)

    def for_small_images(self) -> Layout:
        """The layout with stride 1 in the stem and in the first two stages.

        An image of 32 pixels then ends at 4x4 positions; at the published strides, at one.
        """
        first = tuple(
            (expansion, channels, blocks, 1, size)
            for expansion, channels, blocks, _, size in self.stages[:2]
        )
        return replace(self, stem_stride=1, stages=(*first, *self.stages[2:]))


def _rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that is not more than 10 % below, at least 8."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def block_shapes(layout: Layout) -> Iterator[tuple[int, int, BlockShape]]:
    """Every block of a network with its stage and its index in the stage, both counted from 0."""
    width_in = layout.stem
    for stage, (expansion, width, blocks, stride, size) in enumerate(layout.stages):
        for index in range(blocks):
            step = stride if index == 0 else 1
            yield stage, index, BlockShape(width_in, width, step, expansion, size)
            width_in = width


def run_units(
    x: jax.Array,
    units: Sequence[ConvNorm],
    unit_features: Sequence[Feature],
    *,
    residual: ResidualAdd | None,
) -> jax.Array:
    """Convolution, BatchNorm and ReLU6 of each unit; the last one has no activation.

    The output of a unit is marked as its convolution's feature: after the activation, or after the
    BatchNorm of the linear bottleneck.

    Args:
      residual: adds `x` to the result; None: it is not added.
    """
    y = x
    for index, ((convolution, norm), feature) in enumerate(zip(units, unit_features, strict=True)):
        y = norm(convolution(y))
        y = feature(y if index == len(units) - 1 else jax.nn.relu6(y))
    return y if residual is None else residual(x, y)


def run_network(
    x: jax.Array,
    stem: ConvNorm,
    blocks: Sequence[Callable],
    head: ConvNorm,
    head_feature: Feature,
    classify: Callable,
) -> jax.Array:
    """Stem, blocks, head, global average pooling and classifier."""
    convolution, norm = stem
    x = jax.nn.relu6(norm(convolution(x)))
    for block in blocks:
        x = block(x)
    convolution, norm = head
    x = head_feature(jax.nn.relu6(norm(convolution(x))))
    return classify(jnp.mean(x, axis=(1, 2)))
