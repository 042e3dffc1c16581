"""Packages that only some uses need, and the extra of this package that installs each."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "tensorflow_datasets": "tfds",
    "matplotlib": "plots",
    "tensorboardX": "plots",
}


def missing(package: str) -> str | None:
    """What to install where a package of `EXTRAS` is missing; None where it is there."""
    if find_spec(package) is not None:
        return None
    return f"{package} is not installed: pip install 'rfquant-jax[{EXTRAS[package]}]'"
