"""The training step in PyTorch, for the comparison in train_step.py.

The same arithmetic as `rfquant_jax.train`, in idiomatic PyTorch: a host loop over passes, gradients
accumulated by autograd, fused optimizers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peer_layers import CANDIDATES, Pass, bounds
from benchmarks.peer_networks import SearchedUnit, searched_units

MIN_STEP = 1e-8


@dataclass(frozen=True)
class Constants:
    """Settings of the loss and the update; the defaults are those of the JAX step."""

    idm: float = 0.01  # 0 disables information distortion mitigation
    damping: float = 0.1
    region: float = -2.5e-5
    clip: float = 1.0
    rate: float = 0.01
    step_rate: float = 1e-5
    weight_decay: float = 2.5e-5
    ema_decay: float = 0.9997


def normalized(images: torch.Tensor) -> torch.Tensor:
    """The network's input from uint8[N, H, W, C], in channels_last layout."""
    return images.permute(0, 3, 1, 2).float().sub_(0.5 * 255).div_(0.25 * 255)


def where(condition, term: Callable[[], torch.Tensor]) -> torch.Tensor | float:
    """A conditional term; not computed if the condition is statically false."""
    if isinstance(condition, bool):
        return term() if condition else 0.0
    return torch.where(condition, term(), 0.0).sum()


def weight_terms(unit: SearchedUnit, bits, constants: Constants, is_max: bool):
    """Oscillation damping (not of the max pass) and the region term of one layer."""
    weight = unit.conv.weight
    step = unit.conv.weight_quantizer.step_size(bits).detach()
    lower, upper = bounds(bits, signed=True)
    total, clipped = 0.0, None
    if not is_max:
        clipped = weight.clamp(step * lower, step * upper)
        total = constants.damping * oscillation(unit, bits, clipped, step)

    def region():
        inside = weight.clamp(step * lower, step * upper) if clipped is None else clipped
        return 0.5 * constants.region * inside.square().sum()

    return total + where(bits == 2, region)


def oscillation(unit: SearchedUnit, bits, clipped: torch.Tensor, step: torch.Tensor):
    """Squared distances of clipped weights to their codes, where those are on the coarser grid."""
    smallest = unit.allowed[-1]
    codes = (clipped.detach() / step).round_()
    error = (clipped - codes * step).square()
    if isinstance(bits, torch.Tensor) or bits > smallest:
        coarse = codes / (1 << (bits - smallest))
        on_grid = coarse.round().clamp_(*bounds(smallest, signed=True)).eq_(coarse)
        error = error * on_grid
    return error.sum() * (len(codes) / codes.numel())


def pass_loss(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    configuration,
    reference: tuple[torch.Tensor, dict] | None,
    constants: Constants,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, tuple[torch.Tensor, dict]]:
    """The loss of one pass, and the distillation targets for later passes.

    Args:
      reference: results of the max pass; None: this is the max pass.
    """
    run = Pass(configuration, {} if constants.idm else None)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(normalized(images), run).float()
    loss = functional.cross_entropy(logits, labels)
    units = searched_units(network)
    if reference is not None:
        teacher, features = reference
        divergence = functional.kl_div(
            functional.log_softmax(logits, -1),
            functional.log_softmax(teacher, -1),
            log_target=True,
            reduction="batchmean",
        )
        loss = 0.5 * loss + 0.5 * divergence
        for unit in units if constants.idm else ():
            own, of_max = run.features[unit.index], features[unit.index]
            at_smallest = configuration[unit.index][0] == unit.allowed[-1]
            error = where(at_smallest, lambda a=own, b=of_max: functional.mse_loss(a, b))
            loss = loss + constants.idm * error
    for unit in units:
        bits = configuration[unit.index][0]
        loss = loss + weight_terms(unit, bits, constants, is_max=reference is None)
    held = {index: feature.detach() for index, feature in (run.features or {}).items()}
    return loss, (logits.detach(), held if reference is None else {})


class Trainer:
    """Training of one network, by coupled or plain steps.

    Args:
      random_passes: K; 0 for a plain network.
      compiled: runs the passes through `torch.compile`.
      dtype: dtype of convolutions; float32, or the dtype of autocast.
    """

    def __init__(
        self,
        network: nn.Module,
        random_passes: int,
        constants: Constants,
        *,
        compiled: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        self.network, self.units = network, searched_units(network)
        self.random_passes, self.constants = random_passes, constants
        self.compiled, self.dtype = compiled, dtype
        self._loss = torch.compile(pass_loss, dynamic=False) if compiled else pass_loss
        self.optimizers = optimizers(network, constants)
        named = network.named_parameters()
        self.steps = [value for name, value in named if is_step(name)]
        self.ema = [value.clone() for value in state(network)]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """One step; the losses of its passes."""
        losses = self.accumulate(images, labels, self.sample())
        self.update()
        return losses

    def sample(self) -> list[list[tuple[int, int]]]:
        """The configurations of a step, the max pass first."""
        drawn = [
            [(random.choice(u.allowed), random.choice(u.allowed)) for u in self.units]
            for _ in range(self.random_passes)
        ]
        return [[(CANDIDATES[0], CANDIDATES[0])] * len(self.units), *drawn]

    def accumulate(self, images, labels, configurations) -> list[torch.Tensor]:
        """Forward and backward of every pass, accumulating gradients."""
        losses, reference = [], None
        for configuration in configurations:
            if self.compiled:
                configuration = torch.tensor(configuration, device=images.device)[..., None]
            shared = reference, self.constants, self.dtype
            loss, own = self._loss(self.network, images, labels, configuration, *shared)
            loss.backward()
            losses.append(loss.detach())
            reference = reference or own
        return losses

    @torch.no_grad()
    def update(self) -> None:
        """Clips gradients, and updates both optimizers and the moving average."""
        nn.utils.clip_grad_value_(self.network.parameters(), self.constants.clip, foreach=True)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.steps:
            torch._foreach_clamp_min_(self.steps, MIN_STEP)
        torch._foreach_lerp_(self.ema, state(self.network), 1 - self.constants.ema_decay)


def is_step(name: str) -> bool:
    """Whether a parameter holds step sizes."""
    return name.endswith("quantizer.step")


def state(network: nn.Module) -> list[torch.Tensor]:
    """All arrays of the moving average: parameters and statistics."""
    floating = [value for value in network.buffers() if value.is_floating_point()]
    return [*(value.detach() for value in network.parameters()), *floating]


def optimizers(network: nn.Module, constants: Constants) -> list[torch.optim.Optimizer]:
    """SGD for weights, with decay of convolution kernels only, and Adam for step sizes."""
    named = dict(network.named_parameters())
    steps = [value for name, value in named.items() if is_step(name)]
    others = [value for name, value in named.items() if not is_step(name)]
    groups = [
        {"params": [v for v in others if v.ndim == 4], "weight_decay": constants.weight_decay},
        {"params": [v for v in others if v.ndim != 4]},
    ]
    sgd = torch.optim.SGD(groups, lr=constants.rate, momentum=0.9, nesterov=True, fused=True)
    if not steps:
        return [sgd]
    return [sgd, torch.optim.Adam(steps, lr=constants.step_rate, fused=True)]
