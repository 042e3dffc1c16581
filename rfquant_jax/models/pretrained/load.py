"""Loads weights into a plain network, with PyTorch's names and layouts or with our own."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rfquant_jax.errors import UserError, listed, one_line
from rfquant_jax.models.pretrained.slots import Slot, other_names, slots_of
from rfquant_jax.models.pretrained.weight_names import own_names, renamed

SHOWN = 8  # maximum number of names listed in an error


def load_weights(
    network: nnx.Module, architecture: str, tensors: Mapping[str, np.ndarray]
) -> list[str]:
    """Sets all parameters and BatchNorm statistics of a plain network, or none on error.

    Args:
      network: modified in place.
      architecture: name in the registry; selects the known naming conventions.
      tensors: by PyTorch's names, with convolution kernels OIHW and dense kernels (outputs,
        inputs); or the network's own state as in `nnx.to_flat_state`, by paths that are joined with
        dots or slashes. Prefixes of wrappers are removed.

    Returns:
      names of parameters that were not loaded: the classifier, if the number of classes differs.

    Raises:
      UserError: tensors are missing, unexpected, of another shape, not floating-point, or not
        finite; the message names them.
    """
    tensors = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    slots, found = _places(network, architecture, list(tensors))
    missing = sorted(slots.keys() - found.keys())
    surplus = sorted(found[name] for name in found.keys() - slots.keys())
    misshapen = [n for n in slots.keys() & found.keys() if not slots[n].fits(tensors[found[n]])]
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


def _places(
    network: nnx.Module, architecture: str, names: list[str]
) -> tuple[dict[str, Slot], dict[str, str]]:
    """The slots by the names that fit the file best, and `{such a name: name in the file}`."""
    ours = slots_of(network, is_ours=True)
    theirs = slots_of(network, is_ours=False)
    own = own_names(names, set(ours))
    renames = renamed(architecture, names, set(theirs))
    if len(ours.keys() & own.keys()) <= len(theirs.keys() & renames.keys()):
        return theirs, renames
    left = other_names(network)
    return ours, {name: given for name, given in own.items() if name not in left}


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
