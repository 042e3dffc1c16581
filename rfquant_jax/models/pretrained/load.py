"""Loads weights into a plain network, with PyTorch's names and layouts or with our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.errors import UserError, listed, one_line
from rfquant_jax.models.pretrained.weight_names import renamed
from rfquant_jax.nn.functional import dotted

_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_KERNEL = {"weight": "kernel", "bias": "bias"}
SHOWN = 8  # maximum number of names listed in an error


@dataclass(frozen=True)
class _Slot:
    """A variable of the network, with the conversion of a tensor to its value.

    Attributes:
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
        if not self.is_kernel or self.is_ours:
            return shape
        return (*shape[:-3:-1], *shape[:-2]) if len(shape) == 4 else shape[::-1]

    def fits_other_classes(self, tensor: np.ndarray) -> bool:
        """Whether this is the classifier, and the tensor differs only in the number of classes."""
        rest = slice(None, -1) if self.is_ours else slice(1, None)
        same = tensor.ndim == len(self.shape) and tensor.shape[rest] == self.shape[rest]
        return self.is_classifier and same

    def fill(self, tensor: np.ndarray) -> None:
        if self.is_kernel and not self.is_ours:
            tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        self.variable.set_value(jnp.asarray(tensor, jnp.float32))


def load_weights(
    network: nnx.Module, architecture: str, tensors: Mapping[str, np.ndarray]
) -> list[str]:
    """Sets all parameters and BatchNorm statistics of a plain network, or none on error.

    Args:
      network: modified in place.
      architecture: name in the registry; selects the known naming conventions.
      tensors: by PyTorch's names, with convolution kernels OIHW and dense kernels (outputs,
        inputs); or the network's own state as in `nnx.to_flat_state`, by paths that are joined with
        dots or slashes.

    Returns:
      names of parameters that were not loaded: the classifier, if the number of classes differs.

    Raises:
      UserError: tensors are missing, unexpected, of another shape, not floating-point, or not
        finite; the message names them.
    """
    tensors = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    slots, own = _slots(network, is_ours=True), {n.replace("/", "."): n for n in tensors}
    if 2 * len(slots.keys() & own.keys()) >= len(slots):
        found = own
    else:
        slots = _slots(network, is_ours=False)
        found = renamed(architecture, tensors, set(slots))
    missing = sorted(slots.keys() - found.keys())
    surplus = sorted(found[name] for name in found.keys() - slots.keys())
    misshapen = [
        n for n in slots.keys() & found.keys() if tensors[found[n]].shape != slots[n].shape
    ]
    fresh = sorted(n for n in misshapen if slots[n].fits_other_classes(tensors[found[n]]))
    wrong = [
        f"{found[name]} {list(tensors[found[name]].shape)} instead of {list(slots[name].shape)}"
        for name in sorted(set(misshapen) - set(fresh))
    ]
    fitting = {
        name: tensors[found[name]]
        for name in slots
        if name in found and name not in misshapen  # never reads a huge tensor
    }
    problems = {"missing": missing, "left over": surplus, "of another shape": wrong}
    problems |= _bad_values({found[name]: tensor for name, tensor in fitting.items()})
    if any(problems.values()):
        text = "; ".join(
            f"{what}: {one_line(listed(names, SHOWN), 2000)}"
            for what, names in problems.items()
            if names
        )
        raise UserError(f"`weights` does not fit {architecture}: {text}")
    for name, tensor in fitting.items():
        slots[name].fill(np.asarray(tensor))
    return fresh


def _bad_values(tensors: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Names of invalid tensors, by problem."""
    strange = {name: t.dtype for name, t in sorted(tensors.items()) if not _is_float(t.dtype)}
    floats = {name: t for name, t in sorted(tensors.items()) if name not in strange}
    return {
        "not of floating-point numbers": [f"{name} {dtype}" for name, dtype in strange.items()],
        "not finite in float32": [name for name, t in floats.items() if not _is_finite(t)],
    }


def _is_float(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)  # knows bfloat16, unlike NumPy


def _is_finite(tensor: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # values too large for float32 become infinite
        return bool(np.isfinite(tensor.astype(np.float32)).all())


def _slots(network: nnx.Module, *, is_ours: bool) -> dict[str, _Slot]:
    """The variables of a network by the names that a file gives them."""
    slots = {}
    for path, module in nnx.iter_modules(network):
        if isinstance(module, nnx.BatchNorm):
            attributes = _NORM
        elif isinstance(module, nnx.Conv | nnx.Linear):
            attributes = _KERNEL
        else:
            continue
        for theirs, ours in attributes.items():
            variable = getattr(module, ours)
            if variable is not None:
                dense = isinstance(module, nnx.Linear)
                name = ours if is_ours else theirs
                slots[f"{dotted(path)}.{name}"] = _Slot(variable, ours == "kernel", dense, is_ours)
    return slots
