"""Reads weight files with PyTorch's names, without executing code from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rfquant_jax.errors import UserError, one_line
from rfquant_jax.runtime.npz import read_npz

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name.

    Args:
      path: a `.safetensors`, `.npz`, `.pth` or `.pt` file. The last two need PyTorch and may
        contain only tensors, or a mapping with a "state_dict" of tensors.

    Raises:
      UserError: the file is missing, of another kind, or cannot be read.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, does not fail on permissions
        raise UserError(f"`weights`: {path}: there is no such file")
    readers = {".safetensors": _safetensors, ".npz": read_npz, ".pth": _torch, ".pt": _torch}
    if path.suffix not in readers:
        raise UserError(f"`weights`: {path}: must be one of {', '.join(SUFFIXES)}")
    try:
        return readers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # libraries raise many kinds of exceptions for damaged files
        reason = one_line(error) if str(error) else type(error).__name__
        raise UserError(f"`weights`: {path}: cannot be read ({reason})") from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"`weights`: {path}: reading it needs PyTorch (pip install torch); "
            ".safetensors and .npz files do not"
        ) from error
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise UserError(f"`weights`: {path}: holds no mapping of names to tensors")
    return {name: tensor.numpy() for name, tensor in content.items()}
