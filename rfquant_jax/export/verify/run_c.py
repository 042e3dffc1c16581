"""Compiles an exported C program for this machine and runs it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from rfquant_jax.errors import UserError
from rfquant_jax.export.formats.c_text import identifier
from rfquant_jax.export.verify.compare import Predict

FLAGS = ("-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")


def compiler() -> str | None:
    """The C compiler: the environment variable CC, or cc."""
    return shutil.which(os.environ.get("CC", "cc"))


def load(path: Path) -> Predict:
    """A function that computes logits of normalised images, one by one, with the compiled program.

    Args:
      path: path of the C file; its header is next to it.

    Raises:
      UserError: the program does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        made = [compiler(), *FLAGS, "-fPIC", "-shared", "-o", str(library), str(path), "-lm"]
        done = subprocess.run(made, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{path}: does not compile ({done.stderr.strip().splitlines()[0]})")
        loaded = ctypes.CDLL(str(library))  # stays loaded after the file is deleted
    prefix = identifier(path.stem)
    run = getattr(loaded, f"{prefix}_run")
    run.argtypes, run.restype = [ctypes.c_void_p] * 3, None
    sizes = constants(path.with_suffix(".h"), prefix)
    shape = tuple(sizes[name] for name in ("HEIGHT", "WIDTH", "CHANNELS"))
    arena = np.zeros(sizes["ARENA_BYTES"] // 4, np.float32)

    def predict(images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images, np.float32)
        if images.shape[1:] != shape:
            raise ValueError(f"images {images.shape} must have the shape {('N', *shape)}")
        logits = np.zeros((len(images), sizes["LOGITS"]), np.float32)
        for image, row in zip(images, logits, strict=True):
            run(image.ctypes.data, row.ctypes.data, arena.ctypes.data)
        return logits

    return predict


def constants(header: Path, prefix: str) -> dict[str, int]:
    """The integer constants of a header, without the prefix."""
    lines = [line.split() for line in header.read_text().splitlines()]
    start = f"{prefix.upper()}_"
    return {
        line[1].removeprefix(start): int(line[2])
        for line in lines
        if line[:1] == ["#define"] and len(line) == 3
    }
