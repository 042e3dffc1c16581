"""The networks of train_step.py in PyTorch, plain and coupled, in the layout channels_last."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peer_layers import (
    CANDIDATES,
    FIXED_BITS,
    Pass,
    QuantConv2d,
    QuantLinear,
    SwitchableBatchNorm,
)

DEPTHWISE_MIN_BITS = 3


class PlainUnit(nn.Module):
    """A convolution and its BatchNorm in full precision."""

    index = None  # index among the searched layers

    def __init__(self, *shape, signed: bool, **options):
        super().__init__()
        self.conv = nn.Conv2d(*shape, bias=False, **options)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm = nn.BatchNorm2d(self.conv.out_channels)

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        return self.norm(self.conv(x))


class FirstUnit(nn.Module):
    """The first convolution: weights of a fixed bit-width, an ordinary BatchNorm."""

    index = None

    def __init__(self, *shape, **options):
        super().__init__()
        self.conv = QuantConv2d(*shape, candidates=(FIXED_BITS,), signed=None, **options)
        self.norm = nn.BatchNorm2d(self.conv.out_channels)

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        return self.norm(self.conv(x, FIXED_BITS, FIXED_BITS))


class SearchedUnit(nn.Module):
    """A convolution whose bit-widths a configuration sets, and its switchable BatchNorm."""

    def __init__(self, index: int, *shape, signed: bool, **options):
        super().__init__()
        self.index = index
        self.conv = QuantConv2d(*shape, candidates=CANDIDATES, signed=signed, **options)
        self.norm = SwitchableBatchNorm(self.conv.out_channels)
        lowest = DEPTHWISE_MIN_BITS if self.conv.groups > 1 else CANDIDATES[-1]
        self.allowed = [bits for bits in CANDIDATES if bits >= lowest]

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        weight_bits, input_bits = run.configuration[self.index]
        return self.norm(self.conv(x, weight_bits, input_bits), weight_bits, input_bits)


class Maker:
    """Builds the layers of one network in forward order, plain or coupled."""

    def __init__(self, coupled: bool):
        self.coupled, self._made = coupled, 0

    def unit(
        self, width_in: int, width: int, size=1, stride=1, groups=1, signed=False
    ) -> nn.Module:
        """A convolution and its BatchNorm; `signed` if its input may be negative."""
        shape = (width_in, width, size, stride, size // 2)
        self._made += 1
        if not self.coupled:
            return PlainUnit(*shape, groups=groups, signed=signed)
        if self._made == 1:
            return FirstUnit(*shape)
        return SearchedUnit(self._made - 2, *shape, groups=groups, signed=signed)

    def dense(self, width_in: int, width: int) -> nn.Module:
        """The classifier."""
        return (QuantLinear if self.coupled else nn.Linear)(width_in, width)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected or padded where the shape changes."""

    def __init__(self, make: Maker, width_in: int, width: int, stride: int, projection: bool):
        super().__init__()
        self.first = make.unit(width_in, width, 3, stride)
        self.second = make.unit(width, width, 3)
        self.stride, self.pad = stride, (width - width_in) // 2
        projected = projection and (stride != 1 or width != width_in)
        self.shortcut = make.unit(width_in, width, 1, stride) if projected else None

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        y = run.mark(self.first, functional.relu(self.first(x, run), inplace=True))
        y = self.second(y, run)
        if self.shortcut is not None:
            x = run.mark(self.shortcut, self.shortcut(x, run))
        elif self.pad:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.pad, self.pad))
        return run.mark(self.second, functional.relu(y.add_(x), inplace=True))


class ResNet(nn.Module):
    """A stem, stages of blocks, each later stage at half the resolution, and a classifier."""

    def __init__(self, make: Maker, stem: tuple, widths, blocks: int, projection: bool, classes):
        super().__init__()
        self.stem, self.pooled = make.unit(3, widths[0], *stem), projection
        layers, width_in = [], widths[0]
        for stage, width in enumerate(widths):
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                layers.append(BasicBlock(make, width_in, width, stride, projection))
                width_in = width
        self.blocks = nn.ModuleList(layers)
        self.classifier = make.dense(width_in, classes)

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        x = functional.relu(self.stem(x, run), inplace=True)
        if self.pooled:
            x = functional.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x, run)
        return self.classifier(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    """1x1 expansion (unless it is 1), depthwise convolution, 1x1 linear bottleneck."""

    def __init__(self, make: Maker, width_in: int, width: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * width_in
        units = [make.unit(width_in, hidden, signed=True)] if expansion != 1 else []
        units.append(make.unit(hidden, hidden, 3, stride, hidden))
        self.units = nn.ModuleList([*units, make.unit(hidden, width)])
        self.residual = stride == 1 and width_in == width

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        y = x
        *activated, linear = self.units
        for unit in activated:
            y = run.mark(unit, functional.relu6(unit(y, run), inplace=True))
        y = run.mark(linear, linear(y, run))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """17 blocks between a 3x3 stem of stride 2 and a 1x1 head."""

    # expansion, channels, blocks, stride of the first block
    STAGES = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self, make: Maker, classes: int):
        super().__init__()
        self.stem = make.unit(3, 32, 3, 2)
        blocks, width_in = [], 32
        for expansion, width, count, stride in self.STAGES:
            for number in range(count):
                step = 1 if number else stride
                blocks.append(InvertedResidual(make, width_in, width, step, expansion))
                width_in = width
        self.blocks = nn.ModuleList(blocks)
        self.head = make.unit(width_in, 1280, signed=True)
        self.classifier = make.dense(1280, classes)

    def forward(self, x: torch.Tensor, run: Pass) -> torch.Tensor:
        x = functional.relu6(self.stem(x, run), inplace=True)
        for block in self.blocks:
            x = block(x, run)
        x = run.mark(self.head, functional.relu6(self.head(x, run), inplace=True))
        return self.classifier(x.mean((2, 3)))


NETWORKS = {
    "cifar_resnet8": lambda make, n: ResNet(make, (3, 1), (16, 32, 64), 1, False, n),
    "cifar_resnet20": lambda make, n: ResNet(make, (3, 1), (16, 32, 64), 3, False, n),
    "resnet18": lambda make, n: ResNet(make, (7, 2), (64, 128, 256, 512), 2, True, n),
    "mobilenetv2": MobileNetV2,
}


def check(name: str) -> None:
    """Raises if the network is not in `NETWORKS`."""
    if name not in NETWORKS:
        raise SystemExit(f"--network={name}: --peer has only {', '.join(NETWORKS)}")


def create(name: str, classes: int, *, coupled: bool) -> nn.Module:
    """A randomly initialised network in training mode; `name` is a key of `NETWORKS`."""
    return NETWORKS[name](Maker(coupled), classes).to(memory_format=torch.channels_last)


def searched_units(network: nn.Module) -> list[SearchedUnit]:
    """The searched units in forward order."""
    return [module for module in network.modules() if isinstance(module, SearchedUnit)]
