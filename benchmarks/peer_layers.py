"""Layers of the coupled network in PyTorch, for the comparison in train_step.py.

Bit-widths are Python integers, as usual in PyTorch, so that an eager pass only does the work of its
own configuration. A compiled pass takes int64[1] tensors instead, because integers would be
constants of the program, and every configuration would recompile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

CANDIDATES = (6, 5, 4, 3, 2)  # contiguous, so that the index of a bit-width is a subtraction
FIXED_BITS = 8
Bits = int | torch.Tensor


def bounds(bits: Bits, signed: bool) -> tuple:
    """Smallest and largest code: numbers for an integer, tensors for a tensor."""
    levels = 1 << bits
    if signed:
        return -(levels / 2), levels / 2 - 1
    return levels * 0.0, levels - 1.0


class Quantize(torch.autograd.Function):
    """LSQ: `step * round(clip(x / step, lower, upper))` with straight-through gradients."""

    @staticmethod
    def forward(ctx, x, step, lower, upper):
        ctx.save_for_backward(x, step)
        ctx.bounds = lower, upper
        # A step of shape [1] makes the quotient float32 for bfloat16 x; shape [] would not.
        return torch.div(x, step).clamp_(lower, upper).round_().mul_(step).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        x, step = ctx.saved_tensors
        v = x / step
        codes = v.clamp(*ctx.bounds)
        # In-place multiplication by a mask: on CPU, boolean selection takes twenty times as long.
        inside = v.eq_(codes)
        # round(v) - v inside; outside, the codes are already integers.
        slope = codes.round().sub_(codes.mul_(inside))
        step_gradient = slope.mul_(gradient).sum()[None]
        return (gradient * inside).to(gradient.dtype), step_gradient, None, None


class Quantizer(nn.Module):
    """A quantizer with a step size for each candidate bit-width, largest first."""

    def __init__(self, candidates: Sequence[int], signed: bool):
        super().__init__()
        self.largest, self.signed = candidates[0], signed
        self.step = nn.Parameter(torch.ones(len(candidates)))

    def step_size(self, bits: Bits) -> torch.Tensor:
        """The active step size, of shape [1]."""
        place = self.largest - bits
        if isinstance(place, int):
            return self.step.narrow(0, place, 1)
        return self.step.index_select(0, place)

    def forward(self, x: torch.Tensor, bits: Bits) -> torch.Tensor:
        return Quantize.apply(x, self.step_size(bits), *bounds(bits, self.signed))


def weight_quantizer(weight: torch.Tensor, candidates: Sequence[int]) -> Quantizer:
    """A quantizer whose step sizes are initialised to cover three deviations of these weights."""
    quantizer = Quantizer(candidates, signed=True)
    with torch.no_grad():
        reach = weight.mean().abs() + 3 * weight.std()
        quantizer.step.copy_(torch.stack([reach / 2 ** (b - 1) for b in candidates]))
    return quantizer


class QuantConv2d(nn.Conv2d):
    """A convolution with quantized weights and, unless `signed` is None, a quantized input."""

    def __init__(self, *shape, candidates: Sequence[int], signed: bool | None, **options):
        super().__init__(*shape, bias=False, **options)
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.weight_quantizer = weight_quantizer(self.weight, candidates)
        self.input_quantizer = None if signed is None else Quantizer(candidates, signed)

    def forward(self, x: torch.Tensor, weight_bits: Bits, input_bits: Bits) -> torch.Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x, input_bits)
        return self._conv_forward(x, self.weight_quantizer(self.weight, weight_bits), None)


class QuantLinear(nn.Linear):
    """A dense layer with weights and an unsigned input of a fixed bit-width."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.weight_quantizer = weight_quantizer(self.weight, (FIXED_BITS,))
        self.input_quantizer = Quantizer((FIXED_BITS,), signed=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight_quantizer(self.weight, FIXED_BITS)
        return functional.linear(self.input_quantizer(x, FIXED_BITS), weight, self.bias)


class SwitchableBatchNorm(nn.Module):
    """BatchNorm with a bank of parameters and statistics for each pair of bit-widths."""

    def __init__(self, width: int):
        super().__init__()
        shape = (len(CANDIDATES) ** 2, width)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def forward(self, x: torch.Tensor, weight_bits: Bits, input_bits: Bits) -> torch.Tensor:
        largest, count = CANDIDATES[0], len(CANDIDATES)
        bank = (largest - weight_bits) * count + largest - input_bits
        banks = self.running_mean, self.running_var, self.weight, self.bias
        if isinstance(bank, int):
            return functional.batch_norm(x, *(held[bank] for held in banks), training=True)
        mean, var, weight, bias = (held.index_select(0, bank).squeeze(0) for held in banks)
        y = functional.batch_norm(x, mean, var, weight, bias, training=True)
        self.running_mean.index_copy_(0, bank, mean[None])
        self.running_var.index_copy_(0, bank, var[None])
        return y


@dataclass
class Pass:
    """The inputs and outputs of one forward pass.

    Attributes:
      configuration: [L][2], the (weight, input) bit-widths of the searched layers.
      features: of the searched layers, by index; None if not requested.
    """

    configuration: Sequence[Sequence[Bits]] = ()
    features: dict[int, torch.Tensor] | None = field(default_factory=dict)

    def mark(self, unit: nn.Module, y: torch.Tensor) -> torch.Tensor:
        """Records `y` as the feature of a unit's convolution."""
        if self.features is not None and unit.index is not None:
            self.features[unit.index] = y
        return y
