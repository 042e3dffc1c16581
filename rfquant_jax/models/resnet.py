"""ResNets for photographs (He et al., CVPR 2016), with torchvision's names.

The stride of a bottleneck is in its 3x3 convolution (ResNet v1.5, Gluon's v1b).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.models.cifar_resnet import BasicBlock
from rfquant_jax.models.layers import conv
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature
from rfquant_jax.nn.residual import ResidualAdd
from rfquant_jax.ops.max_pool import max_pool


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the width, and a shortcut.

    Args:
      name: dotted path of the block in the network.
    """

    def __init__(self, name: str, width_in: int, width: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = conv(width_in, width, 1, 1, rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.feature1 = Feature(f"{name}.conv1")
        self.conv2 = conv(width, width, 3, stride, rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.feature2 = Feature(f"{name}.conv2")
        self.conv3 = conv(width, 4 * width, 1, 1, rngs)
        self.bn3 = BatchNorm(4 * width, rngs=rngs)
        self.add = ResidualAdd()
        self.feature3 = Feature(f"{name}.conv3")
        if stride != 1 or width_in != 4 * width:
            projection = conv(width_in, 4 * width, 1, stride, rngs)
            self.downsample = nnx.List([projection, BatchNorm(4 * width, rngs=rngs)])
            self.downsample_feature = Feature(f"{name}.downsample.0")
        else:
            self.downsample = None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.feature1(nnx.relu(self.bn1(self.conv1(x))))
        y = self.feature2(nnx.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            convolution, norm = self.downsample
            x = self.downsample_feature(norm(convolution(x)))
        return self.feature3(nnx.relu(self.add(y, x)))


class ResNet(nnx.Module):
    """Four stages of blocks; each stage after the first halves the size and doubles the width.

    Args:
      depths: blocks in each stage.
      num_classes: number of logits.
      channels: channels of the image.
      bottleneck: blocks of three convolutions instead of two.
      small_images: a 3x3 stem with neither stride nor pooling, for images of about 32x32.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        channels: int = 3,
        bottleneck: bool = False,
        small_images: bool = False,
        rngs: nnx.Rngs,
    ):
        self.small_images = small_images
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = conv(channels, 64, size, stride, rngs)
        self.bn1 = BatchNorm(64, rngs=rngs)
        width_in = 64
        for stage, depth in enumerate(depths, start=1):
            blocks, width = [], 64 * 2 ** (stage - 1)
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"layer{stage}.{index}"
                if bottleneck:
                    blocks.append(Bottleneck(name, width_in, width, stride, rngs))
                else:
                    blocks.append(BasicBlock(name, width_in, width, stride, True, rngs))
                width_in = 4 * width if bottleneck else width
            setattr(self, f"layer{stage}", nnx.List(blocks))
        self.fc = nnx.Linear(width_in, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits float32[N, num_classes] of normalised images `x[N, H, W, channels]`."""
        x = nnx.relu(self.bn1(self.conv1(x)))
        if not self.small_images:
            x = max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in [*self.layer1, *self.layer2, *self.layer3, *self.layer4]:
            x = block(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))
