"""The variables of a network that a file of weights fills, by their names in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.nn.functional import dotted

WEIGHTS = (nnx.Param, nnx.BatchStat)
# PyTorch's names of the variables of a module, where they differ from NNX's. Any other parameter
# has the name of its attribute, for example `cls_token`.
_NORM = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
_PYTORCH: tuple[tuple[tuple[type[nnx.Module], ...], dict[str, str]], ...] = (
    ((nnx.Conv, nnx.Linear), {"kernel": "weight"}),
    ((nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.RMSNorm), _NORM),
    ((nnx.Embed,), {"embedding": "weight"}),
    ((nnx.PReLU,), {"negative_slope": "weight"}),
)


@dataclass(frozen=True)
class Slot:
    """A variable of the network, with the conversion of a tensor to its value.

    Attributes:
      is_kernel: whether PyTorch orders its axes differently: outputs, inputs, then height and
        width.
      is_classifier: whether its last axis may be that of the classes.
      is_ours: the tensor has the variable's own layout, not PyTorch's.
    """

    variable: nnx.Variable
    is_kernel: bool
    is_classifier: bool
    is_ours: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file; in PyTorch OIHW, or (outputs, inputs)."""
        shape = self.variable.get_value().shape
        return (*shape[:-3:-1], *shape[:-2]) if self._is_reordered else shape

    @property
    def _is_reordered(self) -> bool:
        return self.is_kernel and not self.is_ours

    def fits(self, tensor: np.ndarray) -> bool:
        """Whether the tensor has the shape; PyTorch keeps a single number as an array of one."""
        both_one = tensor.shape in ((), (1,)) and self.shape in ((), (1,))
        return tensor.shape == self.shape or both_one

    def fits_other_classes(self, tensor: np.ndarray) -> bool:
        """Whether this is the classifier, and the tensor differs only in the number of classes."""
        rest = slice(None, -1) if self.is_ours else slice(1, None)
        same = tensor.ndim == len(self.shape) and tensor.shape[rest] == self.shape[rest]
        return self.is_classifier and same

    def fill(self, tensor: np.ndarray) -> None:
        """Sets the variable."""
        if self._is_reordered:
            tensor = tensor.transpose(*range(2, tensor.ndim), 1, 0)
        shape = self.variable.get_value().shape
        self.variable.set_value(jnp.asarray(tensor.reshape(shape), jnp.float32))


def slots_of(network: nnx.Module, *, is_ours: bool) -> dict[str, Slot]:
    """All parameters and BatchNorm statistics of a network by their names in a file.

    Args:
      is_ours: dotted paths as in `nnx.to_flat_state`, not PyTorch's names.
    """
    modules = dict(nnx.iter_modules(network))
    slots = {}
    for path, variable in _variables(network).items():
        if not isinstance(variable, WEIGHTS):
            continue
        owner = modules.get(path[:-1])
        name = dotted(path) if is_ours else _pytorch_name(path, modules)
        is_dense = isinstance(owner, nnx.Linear)
        is_kernel = path[-1] == "kernel" and (is_dense or isinstance(owner, nnx.Conv))
        slots[name] = Slot(variable, is_kernel, is_dense, is_ours)
    return slots


def other_names(network: nnx.Module) -> set[str]:
    """Dotted paths of the variables that hold no weights, such as the keys of Dropout."""
    held = _variables(network).items()
    return {dotted(path) for path, variable in held if not isinstance(variable, WEIGHTS)}


def _variables(network: nnx.Module) -> dict[tuple, nnx.Variable]:
    return {path: v for path, v in nnx.iter_graph(network) if isinstance(v, nnx.Variable)}


def _pytorch_name(path: tuple, modules: Mapping[tuple, nnx.Module]) -> str:
    """PyTorch's name of a variable: its Sequential numbers its parts without `layers`."""
    parts = [
        part
        for place, part in enumerate(path[:-1])
        if not (part == "layers" and isinstance(modules.get(path[:place]), nnx.Sequential))
    ]
    owner = modules.get(path[:-1])
    names = next((names for kinds, names in _PYTORCH if isinstance(owner, kinds)), {})
    return dotted((*parts, names.get(path[-1], path[-1])))
