"""Plain networks by name; they do not depend on quantization."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
from flax import nnx

from rfquant_jax.errors import ArgumentError
from rfquant_jax.models.cifar_resnet import CifarResNet
from rfquant_jax.models.efficientnet_lite import EfficientNetLite
from rfquant_jax.models.mobilenetv2 import TINY, MobileNetV2
from rfquant_jax.models.resnet import ResNet
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.features import Feature


@dataclass(frozen=True)
class Architecture:
    """An entry of the registry.

    Attributes:
      construct: takes num_classes, channels, rngs and the options as keyword arguments.
      options: names of additional arguments, see `builder`.
    """

    construct: Callable[..., nnx.Module]
    options: tuple[str, ...] = ()


_MOBILE_OPTIONS = ("dropout", "padding", "epsilon")

REGISTRY: dict[str, Architecture] = {
    f"cifar_resnet{6 * blocks + 2}": Architecture(
        functools.partial(CifarResNet, blocks), options=("projection", "width")
    )
    for blocks in (1, 2, 3, 5, 7, 9)
} | {
    "resnet18": Architecture(functools.partial(ResNet, (2, 2, 2, 2)), ("small_images",)),
    "resnet101": Architecture(
        functools.partial(ResNet, (3, 4, 23, 3), bottleneck=True), ("small_images",)
    ),
    "mobilenetv2": Architecture(MobileNetV2, (*_MOBILE_OPTIONS, "width", "small_images")),
    "mobilenetv2_tiny": Architecture(functools.partial(MobileNetV2, TINY), _MOBILE_OPTIONS),
    "efficientnet_lite0": Architecture(EfficientNetLite, _MOBILE_OPTIONS),
}


def builder(
    name: str, *, num_classes: int, channels: int, seed: int, options: Mapping | None = None
) -> Callable[[], nnx.Module]:
    """A function that builds a randomly initialised network of the registry.

    Pass it to `initialised` for a network (or use `create`), or to `nnx.eval_shape` for its shapes.

    Args:
      name: a key of `REGISTRY`.
      num_classes: number of logits.
      channels: channels of the images.
      seed: seed of the initial weights.
      options: additional arguments of the network's constructor.

    Raises:
      ArgumentError: unknown name or option.
    """
    if name not in REGISTRY:
        raise ArgumentError("name", name, f"must be one of {', '.join(sorted(REGISTRY))}")
    architecture, options = REGISTRY[name], dict(options or {})
    for option, value in options.items():
        if option not in architecture.options:
            known = ", ".join(architecture.options) or "none"
            raise ArgumentError(f"options.{option}", value, f"{name} takes {known}")

    def build() -> nnx.Module:
        given = {"num_classes": num_classes, "channels": channels, "rngs": nnx.Rngs(seed)}
        network = architecture.construct(**given, **options)
        if not isinstance(network, nnx.Module):
            rule = f"must construct an nnx.Module, not a {type(network).__name__}"
            raise ArgumentError("name", name, rule)
        return network

    return build


def create(name: str, **arguments) -> nnx.Module:
    """A randomly initialised network; arguments and errors as for `builder`."""
    return initialised(builder(name, **arguments))


# A constructor that reads values of arrays cannot run abstractly.
_READS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def abstract(build: Callable[[], nnx.Module]) -> nnx.Module:
    """The network that `build` returns, with abstract arrays.

    A constructor that reads values of arrays, such as `float(jnp.linspace(0, 1, 3)[1])`, is run as
    it is; the arrays then have values.
    """
    try:
        return nnx.eval_shape(build)
    except _READS_VALUES:
        return build()


def initialised(build: Callable[[], nnx.Module]) -> nnx.Module:
    """The network that `build` returns, as one compiled program.

    The program runs once, so it is compiled without optimization: optimized, the random draws of
    a MobileNetV2 take twice as long to compile. A constructor that reads values of arrays is run as
    it is, see `abstract`.
    """
    try:
        graphdef, _ = nnx.split(nnx.eval_shape(build))
    except _READS_VALUES:
        return build()
    options = {"xla_backend_optimization_level": 0}
    state = jax.jit(lambda: nnx.state(build()), compiler_options=options)()
    return nnx.merge(graphdef, state)


__all__ = ["REGISTRY", "Architecture", "BatchNorm", "Feature", "builder", "create"]
