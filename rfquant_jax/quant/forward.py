"""What a network must take and return, checked on abstract forward passes: nothing is computed."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr

from rfquant_jax.errors import RunFailure, UserError, listed, one_line
from rfquant_jax.nn.functional import dotted
from rfquant_jax.nn.mode import ARGUMENTS, following_mode

# Two, so that code that confuses the axis of images with another one is found.
IMAGES = 2
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


def check_statistics(network: nnx.Module) -> None:
    """Refuses statistics outside of BatchNorms, which every evaluation would set to zero.

    Raises:
      UserError: names the variable.
    """
    norms = {path for path, m in nnx.iter_modules(network) if isinstance(m, nnx.BatchNorm)}
    for path, _ in nnx.to_flat_state(nnx.state(network, nnx.BatchStat)):
        if path[:-1] not in norms:
            raise UserError(
                f"{dotted(path)} is an nnx.BatchStat outside an nnx.BatchNorm: an evaluation has "
                "the statistics of BatchNorms alone; keep a constant in another kind of "
                "nnx.Variable"
            )


def check_output(output: Any, mode: str = "") -> None:
    """Refuses a network that does not return logits.

    Args:
      output: what it returns for `IMAGES` images, arrays or their shapes.
      mode: the mode it was called in, for the message.

    Raises:
      UserError: it is not one floating-point array [IMAGES, ..., classes].
    """
    where = f" in {mode} mode" if mode else ""
    if not hasattr(output, "shape"):
        names = f" of {listed(sorted(map(str, output)))}" if isinstance(output, Mapping) else ""
        raise UserError(
            f"the network returns a {type(output).__name__}{names}{where}: {_RULE}; wrap it in a "
            "module that returns them"
        )
    # More axes are those of positions, as in segmentation.
    for_each_image = len(output.shape) > 1 and output.shape[0] == IMAGES
    if not for_each_image or not jnp.issubdtype(output.dtype, jnp.floating):
        shown = f"{output.dtype}{list(output.shape)}"
        raise UserError(f"the network returns {shown} for {IMAGES} images{where}: {_RULE}")


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


class Evaluation(NamedTuple):
    """An abstract pass of a network in evaluation mode.

    Attributes:
      logits_shape: shape of the logits of one image, (classes,) or (positions, ..., classes).
      program: its operations.
    """

    logits_shape: tuple[int, ...]
    program: ClosedJaxpr


def evaluation(
    network: nnx.Module,
    image_shape: Sequence[int],
    check: Callable[[nnx.Module], None] = lambda network: None,
) -> Evaluation:
    """Traces a network in evaluation mode; nothing is computed.

    Args:
      network: a plain network; its arrays may be abstract.
      image_shape: (H, W, C).
      check: called with the network before its first call; may refuse it.

    Raises:
      UserError: the network does not map images to logits.
      RunFailure: its code fails; names the module and the line. The cause is attached.
    """
    check_call(network)
    found = []

    def evaluated(network: nnx.Module, images: jax.Array) -> None:
        check(network)
        check_statistics(network)
        network.eval()
        what = f"the network fails on an image of shape {tuple(image_shape)}"
        output = call(network, images, what, RunFailure)
        check_output(output)
        found.append(output.shape[1:])

    program = traced(network, image_shape, evaluated)
    return Evaluation(found[0], program)


def logits_shape(network: nnx.Module, image_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the logits of one image; arguments and errors as for `evaluation`."""
    return evaluation(network, image_shape).logits_shape


def first_difference(plain: ClosedJaxpr, other: ClosedJaxpr) -> str | None:
    """The line of code of the first operation that two programs do not share; None if all are."""
    ours, theirs = plain.jaxpr.eqns, other.jaxpr.eqns
    for mine, its in zip(ours, theirs, strict=False):
        if _operation(mine) != _operation(its):
            return source_info_util.summarize(mine.source_info)
    if len(ours) == len(theirs):
        return None
    extra = max(ours, theirs, key=len)[min(len(ours), len(theirs))]
    return source_info_util.summarize(extra.source_info)


def _operation(equation) -> tuple:
    return equation.primitive.name, equation.params.get("name")


def call(
    network: nnx.Module,
    images: jax.Array,
    what: str,
    failure: type[Exception],
    names: Mapping[int, str] | None = None,
) -> Any:
    """Calls the network; an exception of its code becomes a `failure` that starts with `what`.

    Args:
      names: see `module_names`; None: those of the network.
    """
    try:
        return network(images)
    except UserError:
        raise
    except Exception as error:
        names = module_names(network) if names is None else names
        raise failure(f"{what}: {summary(error, names)}") from error


def traced(
    network: nnx.Module, image_shape: Sequence[int], run: Callable[[nnx.Module, jax.Array], None]
) -> ClosedJaxpr:
    """Traces `run(network, images)` with a copy of the network and `IMAGES` abstract images.

    Returns:
      all operations of the trace.
    """
    graphdef, state = nnx.split(network)

    def whole(state, images):
        run(following_mode(nnx.merge(graphdef, state)), images)

    images = jax.ShapeDtypeStruct((IMAGES, *image_shape), jnp.float32)
    return jax.make_jaxpr(whole)(state, images)


def module_names(network: nnx.Module) -> dict[int, str]:
    """The dotted path of each module of a network by its `id`; the network itself has none."""
    return {id(module): dotted(path) for path, module in nnx.iter_modules(network) if path}


def summary(error: Exception, names: Mapping[int, str] | None = None) -> str:
    """An exception of the network's own code in one line, with the module and the line of code."""
    reason = one_line(_first_sentences(str(error)))
    module, line = _module_of(error, names or {}), line_of(error)
    place = f" ({', '.join(part for part in (module, line) if part)})" if module or line else ""
    return f"{type(error).__name__}: {reason}{place}"


def _first_sentences(text: str) -> str:
    """The first line of a message, without a last sentence that announces the next line."""
    first = (text.splitlines() or [""])[0]
    before, _, last = first.rpartition(". ")
    return f"{before}." if before and last.endswith(":") else first


def _module_of(error: Exception, names: Mapping[int, str]) -> str:
    """The innermost module of the network that was called when an exception was raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = [names.get(id(frame.f_locals.get("self"))) for frame in frames]
    return next((f"module {name}" for name in reversed(owners) if name), "")


def line_of(error: Exception) -> str:
    """The line of the network's own code that an exception comes from; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not set(_LIBRARIES) & set(Path(f.filename).parts)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
