"""Networks that take their mode as an argument: `__call__(x, train=...)`.

The mode of a network is what its `train()` and `eval()` set. A network whose `__call__` has an
argument for it gets the argument from there, so that every caller can pass the images alone.
"""

from __future__ import annotations

import functools
import inspect

import jax
from flax import nnx

# Arguments for the mode, with their values in training mode.
ARGUMENTS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class Mode(nnx.Module):
    """Remembers which of `train()` and `eval()` was called last on the network around it.

    Attributes:
      deterministic: False in training mode; both functions set the attributes of this name.
    """

    def __init__(self):
        self.deterministic = False


def mode_arguments(kind: type[nnx.Module]) -> tuple[str, ...]:
    """Names of the arguments of a class's `__call__` that give the mode."""
    return tuple(n for n in inspect.signature(kind.__call__).parameters if n in ARGUMENTS)


def following_mode(network: nnx.Module) -> nnx.Module:
    """The network, callable with the images alone if its other arguments give the mode.

    Returns:
      the network itself if it has no such argument; otherwise a copy of a class that is derived
      from its own. Names of modules and arrays do not change.
    """
    if isinstance(getattr(network, "_mode", None), Mode) or not mode_arguments(type(network)):
        return network
    copy = nnx.clone(network)
    copy.__class__ = _derived(type(network))
    copy._mode = Mode()
    return copy


@functools.cache
def _derived(kind: type[nnx.Module]) -> type[nnx.Module]:
    """A subclass whose `__call__` passes the mode, unless its caller does.

    Cached: networks of one class get one class.
    """
    names = mode_arguments(kind)

    def call(self, x: jax.Array, **others) -> jax.Array:
        training = not self._mode.deterministic
        mode = {name: ARGUMENTS[name] if training else not ARGUMENTS[name] for name in names}
        return kind.__call__(self, x, **(mode | others))

    members = {"__call__": call, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind)(kind.__name__, (kind,), members)
