"""Which plain layers can be converted: a layer whose behaviour would be lost is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.errors import UserError, listed
from rfquant_jax.nn.batch_norm import BatchNorm
from rfquant_jax.ops.convolution import general_dilated

_UNSUPPORTED = (nnx.ConvTranspose, nnx.LinearGeneral, nnx.Einsum)
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


def check_call(network: nnx.Module) -> None:
    """Refuses a network that cannot be called with the images alone.

    Raises:
      UserError: its `__call__` needs other arguments; names them.
    """
    kinds = inspect.Parameter
    _, *parameters = inspect.signature(type(network).__call__).parameters.values()
    several = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is kinds.empty and p.kind not in several]
    if len(needed) > 1:
        raise UserError(
            f"the network is called with the images alone, but its __call__ also needs "
            f"{listed(needed[1:])}: give them defaults; its train() and eval() set the mode of "
            "BatchNorm and Dropout"
        )


def check_output(output: Any) -> None:
    """Refuses a network that does not return logits.

    Args:
      output: what it returns for one image, arrays or their shapes.

    Raises:
      UserError: it is not one floating-point array [1, ..., classes].
    """
    rule = "it must return the logits alone, [N, classes]"
    if not hasattr(output, "shape"):
        names = f" of {listed(sorted(map(str, output)))}" if isinstance(output, Mapping) else ""
        raise UserError(
            f"the network returns a {type(output).__name__}{names}: {rule}; wrap it in a module "
            "that returns them"
        )
    # More axes are those of positions, as in segmentation.
    if len(output.shape) < 2 or not jnp.issubdtype(output.dtype, jnp.floating):
        shown = f"{output.dtype}{list(output.shape)}"
        raise UserError(f"the network returns {shown} for one image: {rule}")


def check_arguments(name: str, module: nnx.Module, arguments: Sequence[str]) -> None:
    """Refuses arguments of a call that a converted layer would not take.

    Args:
      name: dotted path of the layer.
      arguments: names or values of the arguments besides the input.

    Raises:
      UserError: there are some.
    """
    if arguments:
        kind = next(kind for kind in _CALLS if isinstance(module, kind)).__name__
        raise UserError(
            f"layer {name}: an nnx.{kind} is called with {listed(arguments)} besides its input, "
            "which a converted one does not take: the network's train() and eval() set its mode"
        )


def is_converted(module: nnx.Module) -> bool:
    """Whether a module is a convolution, dense layer or BatchNorm that conversion replaces."""
    return isinstance(module, tuple(_CALLS))


def check_plain_layer(name: str, module: nnx.Module) -> None:
    """Refuses a layer whose behaviour a coupled network would not carry over.

    Args:
      name: dotted path of the module.

    Raises:
      UserError: the module is a layer of an unsupported kind, a subclass with a `__call__` of its
        own, has an option that is not carried over, or parameters of half precision.
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
    _check_parameters(name, module)


def _same(option: str, value: Any, default: Any) -> bool:
    """Whether an option has its default, or a value that means the same."""
    if option == "input_dilation":
        return value is None or all(v == 1 for v in jax.tree.leaves(value))
    if option == "conv_general_dilated":
        return value is default or value is general_dilated
    return value is default or (isinstance(value, int) and value == default)


def _check_parameters(name: str, module: nnx.Module) -> None:
    for parameter in ("kernel", "scale", "bias"):
        held = getattr(module, parameter, None)
        if held is not None and jnp.finfo(held[...].dtype).bits < 32:
            raise UserError(
                f"layer {name}: the {parameter} is {held[...].dtype}, but parameters must be "
                "float32 (param_dtype); set the layer's dtype to compute in half precision"
            )


def _shown(value: Any) -> str:
    """A value in one short line: arrays by shape, functions by name."""
    if hasattr(value, "shape"):
        return f"array{tuple(value.shape)}"
    return getattr(value, "__name__", None) or repr(value)
