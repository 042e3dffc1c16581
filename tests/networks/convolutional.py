"""Networks of convolutions with the parts that their papers added."""

import jax.numpy as jnp
from flax import nnx


class Unit(nnx.Module):
    """Convolution, BatchNorm, activation."""

    def __init__(self, inputs, outputs, size, rngs, *, stride=1, groups=1, act=nnx.relu):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            stride,
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm, self.act = nnx.BatchNorm(outputs, rngs=rngs), act

    def __call__(self, x):
        return self.act(self.norm(self.conv(x)))


def same(x):
    return x


class Bottleneck(nnx.Module):
    """ResNet-50's block (He et al., CVPR 2016)."""

    def __init__(self, inputs, width, rngs, stride=1):
        self.reduce = Unit(inputs, width, 1, rngs)
        self.middle = Unit(width, width, 3, rngs, stride=stride)
        self.expand = Unit(width, 4 * width, 1, rngs, act=same)
        self.shortcut = Unit(inputs, 4 * width, 1, rngs, stride=stride, act=same)

    def __call__(self, x):
        return nnx.relu(self.expand(self.middle(self.reduce(x))) + self.shortcut(x))


class Excitation(nnx.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018), with dense layers."""

    def __init__(self, channels, rngs, gate):
        self.down = nnx.Linear(channels, channels // 2, rngs=rngs)
        self.up = nnx.Linear(channels // 2, channels, rngs=rngs)
        self.gate = gate

    def __call__(self, x):
        y = self.up(nnx.relu(self.down(x.mean((1, 2)))))
        return x * self.gate(y)[:, None, None]


class Inverted(nnx.Module):
    """An inverted residual with squeeze and excitation: EfficientNet, MobileNetV3."""

    def __init__(self, width, rngs, act, gate):
        self.expand = Unit(width, 2 * width, 1, rngs, act=act)
        self.depthwise = Unit(2 * width, 2 * width, 3, rngs, groups=2 * width, act=act)
        self.excitation = Excitation(2 * width, rngs, gate)
        self.project = Unit(2 * width, width, 1, rngs, act=same)

    def __call__(self, x):
        return x + self.project(self.excitation(self.depthwise(self.expand(x))))


class Shuffle(nnx.Module):
    """ShuffleNetV2's block (Ma et al., ECCV 2018): half of the channels, then shuffled."""

    def __init__(self, width, rngs):
        half = width // 2
        self.first = Unit(half, half, 1, rngs)
        self.depthwise = Unit(half, half, 3, rngs, groups=half, act=same)
        self.last = Unit(half, half, 1, rngs)

    def __call__(self, x):
        left, right = jnp.split(x, 2, -1)
        y = jnp.concatenate([left, self.last(self.depthwise(self.first(right)))], -1)
        return y.reshape(*y.shape[:3], 2, -1).swapaxes(3, 4).reshape(y.shape)


class Dense(nnx.Module):
    """DenseNet's layer (Huang et al., CVPR 2017): BatchNorm first, outputs are appended."""

    def __init__(self, inputs, growth, rngs):
        self.norm = nnx.BatchNorm(inputs, rngs=rngs)
        self.conv = nnx.Conv(inputs, growth, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x):
        return jnp.concatenate([x, self.conv(nnx.relu(self.norm(x)))], -1)


class ConvNext(nnx.Module):
    """ConvNeXt's block (Liu et al., CVPR 2022): 7x7 depthwise, LayerNorm, two dense layers."""

    def __init__(self, width, rngs):
        self.depthwise = nnx.Conv(width, width, (7, 7), feature_group_count=width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.scale = nnx.Param(0.5 * jnp.ones(width))

    def __call__(self, x):
        y = self.down(nnx.gelu(self.up(self.norm(self.depthwise(x))), approximate=False))
        return x + y * self.scale[...]


class Network(nnx.Module):
    """A stem, blocks and a classifier of the mean over positions."""

    def __init__(self, shape, classes, rngs, blocks, outputs, stem=8):
        self.stem = Unit(shape[-1], stem, 3, rngs)
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(outputs, classes, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Vgg(nnx.Module):
    """VGG (Simonyan and Zisserman, ICLR 2015): biases instead of BatchNorm, hidden dense layers."""

    def __init__(self, shape, classes, rngs):
        self.first = nnx.Conv(shape[-1], 6, (3, 3), rngs=rngs)
        self.second = nnx.Conv(6, 8, (3, 3), rngs=rngs)
        pooled = (shape[0] // 2) * (shape[1] // 2)
        self.hidden = nnx.Linear(8 * pooled, 16, rngs=rngs)
        self.head = nnx.Linear(16, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.second(nnx.relu(self.first(x))))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.head(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def resnet50(shape, classes, rngs):
    blocks = [Bottleneck(8, 4, rngs), Bottleneck(16, 6, rngs, stride=2)]
    return Network(shape, classes, rngs, blocks, 24)


def efficientnet(shape, classes, rngs):
    blocks = [Inverted(8, rngs, nnx.silu, nnx.sigmoid) for _ in range(2)]
    return Network(shape, classes, rngs, blocks, 8)


def mobilenetv3(shape, classes, rngs):
    blocks = [Inverted(8, rngs, nnx.hard_swish, nnx.hard_sigmoid) for _ in range(2)]
    return Network(shape, classes, rngs, blocks, 8)


def shufflenetv2(shape, classes, rngs):
    return Network(shape, classes, rngs, [Shuffle(8, rngs) for _ in range(2)], 8)


def densenet(shape, classes, rngs):
    return Network(shape, classes, rngs, [Dense(8, 4, rngs), Dense(12, 4, rngs)], 16)


def convnext(shape, classes, rngs):
    return Network(shape, classes, rngs, [ConvNext(8, rngs) for _ in range(2)], 8)
