"""Reads weight files and folders, without executing code from them."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfquant_jax.errors import UserError, listed, one_line
from rfquant_jax.models.pretrained.orbax_folder import read_orbax
from rfquant_jax.models.pretrained.state_dict import find_weights
from rfquant_jax.runtime.npz import read_npz

SAFETENSORS, NPZ, TORCH = "safetensors", "npz", "PyTorch"
_SUFFIXES = {
    ".safetensors": SAFETENSORS,
    ".npz": NPZ,
    ".pth": TORCH,
    ".pt": TORCH,
    ".tar": TORCH,  # model.pth.tar is no archive
    ".ckpt": TORCH,
    ".bin": TORCH,
}
Log = Callable[[str], object]
_PICKLE = b"\x80"  # first byte of PyTorch's files before its version 1.6


def read_weights(path: Path, log: Log = lambda _: None) -> dict[str, np.ndarray]:
    """The tensors of a file by name.

    Args:
      path: a safetensors, npz or PyTorch file; its content decides, not its name. PyTorch files
        need PyTorch and may nest the tensors, see `state_dict.find_weights`. Or a folder of orbax,
        see `orbax_folder.read_orbax`.
      log: called with a message if the weights are a part of the file.

    Raises:
      UserError: the file is missing, of another kind, or cannot be read.
    """
    # Unlike those of Path, these functions do not fail on permissions.
    if not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"`weights`: {path}: there is no such file")
    try:
        tensors, inside, keys = _read(path)
        arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    except UserError:
        raise
    except LookupError as error:
        raise UserError(f"`weights`: {path}: {error.args[0]}") from error
    except Exception as error:  # libraries raise many kinds of exceptions for damaged files
        raise UserError(f"`weights`: {path}: cannot be read ({_reason(error)})") from error
    if inside:
        log(f"weights: {path}: its {inside!r}, of {listed(keys)}")
    return arrays


def _array(name: str, tensor: Any) -> np.ndarray:
    """A tensor as an array; sparse ones and those without values cannot be."""
    try:
        return as_numpy(tensor)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise LookupError(f"its tensor {one_line(name)} is no array ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The first sentence of another library's message: what follows is advice for its own users."""
    first = (str(error).strip().splitlines() or [""])[0]
    return one_line(first.partition(". ")[0]) or type(error).__name__


def _read(path: Path) -> tuple[Mapping[str, Any], str, list[str]]:
    """The tensors by name, the key that leads to them, and all keys beside it."""
    if os.path.isdir(path):
        return read_orbax(path)
    content = _READERS[_kind(path)](path)
    return *find_weights(content), sorted(map(str, content))


def _kind(path: Path) -> str:
    """The kind of a file by its content; of a damaged one by its name."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise UserError(f"`weights`: {path}: is empty")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return TORCH if any(name.endswith("data.pkl") for name in names) else NPZ
    if start[8:] == b"{":
        return SAFETENSORS
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if start[:1] == _PICKLE:
        return TORCH
    raise UserError(f"`weights`: {path}: must be a safetensors, npz or PyTorch file")


def as_numpy(tensor: Any) -> np.ndarray:
    """A tensor of any library; PyTorch's bfloat16, which NumPy lacks, becomes float32."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _torch(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"`weights`: {path}: reading it needs PyTorch (pip install torch); "
            ".safetensors and .npz files do not"
        ) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise LookupError("is a program of TorchScript: save the state_dict alone")
    try:
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"`weights`: {path}: {_refused(error)}") from error
    if not isinstance(content, Mapping):
        raise LookupError("holds no mapping of names to tensors")
    return content


def _harmless() -> list:
    """Types besides tensors that training programs save: arguments, NumPy numbers and arrays."""
    import argparse

    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    scalar = np.float64(0).__reduce__()[0]  # the function that unpickles NumPy numbers
    array = np.zeros(1).__reduce__()[0]  # the one for arrays
    return [argparse.Namespace, np.dtype, np.ndarray, scalar, array, *dtypes]


def _refused(error: Exception) -> str:
    """The message for a pickle that was not read; PyTorch's advises to read it unsafely."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named is None:
        return "cannot be read (it is damaged)"
    return (
        f"contains an object of type {one_line(named[1], 100)}, which could run code when it is "
        "read: save the state_dict alone"
    )


_READERS = {SAFETENSORS: _safetensors, NPZ: read_npz, TORCH: _torch}
