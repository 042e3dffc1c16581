"""What a network must take and return, checked on abstract forward passes: nothing is computed."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rfquant_jax.errors import RunFailure, UserError, listed, one_line
from rfquant_jax.nn.mode import ARGUMENTS, following_mode

_RULE = "it must return the logits alone, [N, classes]"
_LIBRARIES = ("jax", "jaxlib", "flax", "rfquant_jax")


def check_call(network: nnx.Module) -> None:
    """Refuses a network that cannot be called with the images and the mode alone.

    Raises:
      UserError: it is no `nnx.Module`, or its `__call__` needs other arguments; names them.
    """
    if not isinstance(network, nnx.Module):
        raise UserError(f"the network must be an nnx.Module, not a {type(network).__name__}")
    kinds = inspect.Parameter
    _, *parameters = inspect.signature(type(network).__call__).parameters.values()
    several = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is kinds.empty and p.kind not in several]
    if others := [name for name in needed[1:] if name not in ARGUMENTS]:
        raise UserError(
            f"the network is called with the images alone, but its __call__ also needs "
            f"{listed(others)}: give them defaults; its train() and eval() set the mode of "
            "BatchNorm and Dropout"
        )


def check_output(output: Any, mode: str = "") -> None:
    """Refuses a network that does not return logits.

    Args:
      output: what it returns for one image, arrays or their shapes.
      mode: the mode it was called in, for the message.

    Raises:
      UserError: it is not one floating-point array [1, ..., classes].
    """
    where = f" in {mode} mode" if mode else ""
    if not hasattr(output, "shape"):
        names = f" of {listed(sorted(map(str, output)))}" if isinstance(output, Mapping) else ""
        raise UserError(
            f"the network returns a {type(output).__name__}{names}{where}: {_RULE}; wrap it in a "
            "module that returns them"
        )
    # More axes are those of positions, as in segmentation.
    if len(output.shape) < 2 or not jnp.issubdtype(output.dtype, jnp.floating):
        shown = f"{output.dtype}{list(output.shape)}"
        raise UserError(f"the network returns {shown} for one image{where}: {_RULE}")


def check_classes(shape: Sequence[int], classes: int) -> None:
    """Refuses a network whose logits are not one number for each class.

    Args:
      shape: shape of the logits of one image, see `logits_shape`.
      classes: number of classes.

    Raises:
      UserError: names both numbers.
    """
    if shape[-1] != classes:
        raise UserError(
            f"the network returns {shape[-1]} logits, but there are {classes} classes: both "
            "numbers must be equal"
        )


def logits_shape(network: nnx.Module, image_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the logits of one image, (classes,) or (positions, ..., classes).

    Args:
      network: a plain network; its arrays may be abstract.
      image_shape: (H, W, C).

    Raises:
      UserError: the network does not map images to logits.
      RunFailure: its code fails; names the line. The cause is attached.
    """
    check_call(network)
    found = []

    def evaluated(network: nnx.Module, images: jax.Array) -> None:
        network.eval()
        what = f"the network fails on an image of shape {tuple(image_shape)}"
        output = _output(network, images, what, RunFailure)
        check_output(output)
        found.append(output.shape[1:])

    abstractly(network, image_shape, evaluated)
    return found[0]


def check_training_mode(network: nnx.Module, images: jax.Array) -> None:
    """Calls a network, which ran in evaluation mode before, in training mode.

    Raises:
      UserError: it fails or does not return logits.
    """
    network.train()
    what = "the network runs in evaluation mode, but not in training mode"
    check_output(_output(network, images, what, UserError), "training")


def _output(network: nnx.Module, images: jax.Array, what: str, failure: type[Exception]) -> Any:
    """Calls the network; an exception of its code becomes a `failure` that starts with `what`."""
    try:
        return network(images)
    except UserError:
        raise
    except Exception as error:
        raise failure(f"{what}: {summary(error)}") from error


def abstractly(
    network: nnx.Module, image_shape: Sequence[int], run: Callable[[nnx.Module, jax.Array], None]
) -> None:
    """Traces `run(network, images)` with a copy of the network and one abstract image."""
    graphdef, state = nnx.split(network)

    def traced(state, images):
        run(following_mode(nnx.merge(graphdef, state)), images)

    jax.eval_shape(traced, state, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def summary(error: Exception) -> str:
    """An exception of the network's own code in one line, with the line of code."""
    reason = one_line((str(error).splitlines() or [""])[0])
    return f"{type(error).__name__}: {reason}{line_of(error)}"


def line_of(error: Exception) -> str:
    """The line of the network's own code that an exception comes from; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not set(_LIBRARIES) & set(Path(f.filename).parts)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
