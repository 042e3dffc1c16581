"""Which plain layers can be converted: a layer whose behaviour would be lost is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.errors import UserError, listed
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.nn.functional import dotted
from rfquant_jax.nn.mode import ARGUMENTS
from rfquant_jax.ops.convolution import general_dilated

_NORM_MODE = "use_running_average"
_UNSUPPORTED = (
    nnx.ConvTranspose,
    nnx.LinearGeneral,
    nnx.Einsum,
    nnx.SpectralNorm,  # these two change the kernel of the layer inside them
    nnx.WeightNorm,
)
_CALLS = {
    nnx.Conv: (nnx.Conv.__call__,),
    nnx.Linear: (nnx.Linear.__call__,),
    nnx.BatchNorm: (nnx.BatchNorm.__call__, BatchNorm.__call__),
}


# Options that a coupled network does not carry over: only their defaults are accepted. Strides,
# padding, kernel dilation, groups, bias and dtype are carried over.
_OF_BOTH = ("precision", "preferred_element_type", "promote_dtype")
_DROPPED = {
    nnx.Conv: ("mask", "input_dilation", "conv_general_dilated", *_OF_BOTH),
    nnx.Linear: ("dot_general", *_OF_BOTH),
    nnx.BatchNorm: ("axis", "axis_name", "axis_index_groups", "dtype", "promote_dtype"),
}


_KEPT = {
    nnx.Conv: ("kernel", "bias", "strides", "padding", "dtype"),
    nnx.Linear: ("kernel", "bias", "dtype"),
    nnx.BatchNorm: ("epsilon", "momentum", _NORM_MODE),
}


def check_arguments(name: str, module: nnx.Module, args: tuple, kwargs: Mapping) -> None:
    """Refuses arguments of a call that a converted layer would not take.

    A BatchNorm may be called with the mode that it is in.

    Args:
      name: dotted path of the layer.
      args, kwargs: the arguments besides the input.

    Raises:
      UserError: there are some.
    """
    kind = next(kind for kind in _CALLS if isinstance(module, kind))
    given = dict(kwargs)
    if kind is nnx.BatchNorm:
        if len(args) == 1:
            given, args = given | {_NORM_MODE: args[0]}, ()
        _check_mode(name, module, given.pop(_NORM_MODE, None))
    if args or given:
        shown = listed([*map(str, args), *given])
        raise UserError(
            f"layer {name}: an nnx.{kind.__name__} is called with {shown} besides its input, which "
            "a converted one does not take"
        )


def _check_mode(name: str, module: nnx.BatchNorm, running: bool | None) -> None:
    """Refuses a mode of a call that is not that of the network's `train()` or `eval()`."""
    mode = module.use_running_average
    if running is not None and bool(running) != mode:
        raise UserError(
            f"layer {name}: it is called with {_NORM_MODE}={running} in "
            f"{'evaluation' if mode else 'training'} mode: leave the argument to train() and "
            "eval(), or take it from an argument of the network's __call__ that follows them: "
            f"{', '.join(ARGUMENTS)}"
        )


def attributes_kept(module: nnx.Module) -> tuple[str, ...]:
    """Attributes of a layer that a network's code may read: a converted layer has them, too."""
    return _KEPT[next(kind for kind in _CALLS if isinstance(module, kind))]


ALL_KEPT = frozenset(name for names in _KEPT.values() for name in names)


def is_converted(module: nnx.Module) -> bool:
    """Whether a module is a convolution, dense layer or BatchNorm that conversion replaces."""
    return isinstance(module, tuple(_CALLS))


def check_plain_layer(name: str, module: nnx.Module) -> None:
    """Refuses a layer whose behaviour a coupled network would not carry over.

    Args:
      name: dotted path of the module.

    Raises:
      UserError: the module is a layer of an unsupported kind, a subclass with a `__call__` of its
        own, has an option that is not carried over, or is a stack of layers.
    """
    if isinstance(module, _UNSUPPORTED):
        raise UserError(
            f"layer {name} is an nnx.{type(module).__name__}, which cannot be quantized: only "
            "nnx.Conv and nnx.Linear can"
        )
    if not is_converted(module):
        return
    kind = next(kind for kind in _CALLS if isinstance(module, kind))
    if type(module).__call__ not in _CALLS[kind]:
        raise UserError(
            f"layer {name} is a {type(module).__name__}, a subclass of nnx.{kind.__name__} with "
            "its own __call__, which conversion would drop: move that code to the module around "
            f"the layer and use nnx.{kind.__name__}"
        )
    defaults = inspect.signature(kind.__init__).parameters
    for option in _DROPPED[kind]:
        value = getattr(module, option, None)
        default = defaults[option].default if option in defaults else None
        if not _same(option, value, default):
            raise UserError(
                f"layer {name}: {option}={_shown(value)} is not supported: it must be "
                f"{_shown(default)}"
            )
    _check_axes(name, module)


def _check_axes(name: str, module: nnx.Module) -> None:
    """Refuses layers in a stack, whose parameters have leading axes and which are called often."""
    if isinstance(module, nnx.BatchNorm):
        parameter, axes = "mean", 1
    else:
        parameter, axes = "kernel", 2 + len(getattr(module, "kernel_size", ()))
    shape = tuple(getattr(module, parameter)[...].shape)
    if len(shape) != axes:
        raise UserError(
            f"layer {name}: its {parameter} {shape} has {len(shape)} axes instead of {axes}: "
            "stacks of layers, as nnx.vmap and nnx.scan take them, are not supported; put the "
            "layers into an nnx.List and call them one by one"
        )


def _same(option: str, value: Any, default: Any) -> bool:
    """Whether an option has its default, or a value that means the same."""
    if option == "input_dilation":
        return value is None or all(v == 1 for v in jax.tree.leaves(value))
    if option == "conv_general_dilated":
        return value is default or value is general_dilated
    return value is default or (isinstance(value, int) and value == default)


def check_parameters(network: nnx.Module) -> None:
    """Refuses parameters that are not float32, of layers and of other modules alike.

    Raises:
      UserError: names the parameter and its dtype.
    """
    for path, held in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        if (dtype := held[...].dtype) == jnp.float32:
            continue
        if not jnp.issubdtype(dtype, jnp.floating):
            remedy = "keep an array that is not trained in another kind of nnx.Variable"
        else:
            remedy = "param_dtype sets it; set the layer's dtype to compute in half precision"
        raise UserError(
            f"{dotted(path)} is {dtype}, but parameters (nnx.Param) must be float32: {remedy}"
        )


def _shown(value: Any) -> str:
    """A value in one short line: arrays by shape, functions by name."""
    if hasattr(value, "shape"):
        return f"array{tuple(value.shape)}"
    return getattr(value, "__name__", None) or repr(value)
