"""ResNets for small images (He et al., CVPR 2016, section 4.2), with names as in PyTorch ports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.errors import ArgumentError
from rfquant_jax.models.layers import conv
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature
from rfquant_jax.nn.residual import ResidualAdd


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
      name: dotted path of the block in the network.
      projection: whether a shortcut that changes shape is a strided 1x1 convolution; otherwise it
        subsamples pixels and pads the channels with zeros on both sides.
    """

    def __init__(
        self, name: str, width_in: int, width: int, stride: int, projection: bool, rngs: nnx.Rngs
    ):
        self.conv1 = conv(width_in, width, 3, stride, rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.feature1 = Feature(f"{name}.conv1")
        self.conv2 = conv(width, width, 3, 1, rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.add = ResidualAdd()
        self.feature2 = Feature(f"{name}.conv2")
        self.stride, self.padding = stride, (width - width_in) // 2
        self.changes_shape = stride != 1 or width != width_in
        if self.changes_shape and projection:
            norm = BatchNorm(width, rngs=rngs)
            self.downsample = nnx.List([conv(width_in, width, 1, stride, rngs), norm])
            self.downsample_feature = Feature(f"{name}.downsample.0")
        else:
            self.downsample = None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.feature1(nnx.relu(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(y))
        return self.feature2(nnx.relu(self.add(y, self._shortcut(x))))

    def _shortcut(self, x: jax.Array) -> jax.Array:
        if self.downsample is not None:
            convolution, norm = self.downsample
            return self.downsample_feature(norm(convolution(x)))
        if not self.changes_shape:
            return x
        pad = self.padding
        return jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(pad, pad)])


class CifarResNet(nnx.Module):
    """`6 * blocks + 2` layers: a 3x3 stem and three stages of `blocks` basic blocks.

    Args:
      blocks: basic blocks in each of the three stages.
      num_classes: number of logits.
      channels: channels of the image.
      width: channels of the first stage; each later stage doubles them and halves the resolution.
      projection: see `BasicBlock`.

    Raises:
      ArgumentError: a width of zero or less.
    """

    def __init__(
        self,
        blocks: int,
        *,
        num_classes: int = 10,
        channels: int = 3,
        width: int = 16,
        projection: bool = False,
        rngs: nnx.Rngs,
    ):
        if not isinstance(width, int) or width < 1:
            raise ArgumentError("width", width, "must be a whole number of at least 1")
        self.conv1 = conv(channels, width, 3, 1, rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        width_in = width
        for stage in (1, 2, 3):
            layer = []
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"layer{stage}.{index}"
                layer.append(BasicBlock(name, width_in, width, stride, projection, rngs))
                width_in = width
            setattr(self, f"layer{stage}", nnx.List(layer))
            width = 2 * width
        self.linear = nnx.Linear(width_in, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits float32[N, num_classes] of normalised images `x[N, H, W, channels]`."""
        x = nnx.relu(self.bn1(self.conv1(x)))
        for block in [*self.layer1, *self.layer2, *self.layer3]:
            x = block(x)
        return self.linear(jnp.mean(x, axis=(1, 2)))
