"""Files of integer models; the format is specified in `docs/integer_format.md`.

A file holds one or several configurations of a network. A layer's codes at a bit-width do not
depend on the configuration, so kernels are stored once per used bit-width. All bit-widths from 2 to
6 together (20 bits per weight) are smaller than float32 weights and need no rounding on load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rfquant_jax.errors import UserError
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.packing import pack
from rfquant_jax.quant.lsq import FULL_PRECISION
from rfquant_jax.runtime.files import replacing

FORMAT, VERSION = "rfquant-integer", "1"


def write(path: Path, models: Mapping[str, IntegerModel]) -> None:
    """Writes configurations of one network into one file.

    Args:
      models: models of one network by configuration name. Their graphs, constants and kernels of
        equal bit-width must be equal.

    Raises:
      UserError: the models are not of one network.
    """
    first = next(iter(models.values()))
    tensors = {f"constant/{name}": values for name, values in first.constants.items()}
    configurations = {}
    for name, model in models.items():
        if model.graph != first.graph:
            raise UserError(f"configuration {name!r} is of another network")
        for layer, data in model.stored().layers.items():
            _add(tensors, f"{name}/{layer}/scale", data.scale)
            _add(tensors, f"{name}/{layer}/bias", data.bias)
            if data.kernel is not None:
                _add(tensors, kernel_name(layer, data.weight_bits), _packed(data))
        entries = {layer: _entry(data) for layer, data in model.layers.items()}
        configurations[name] = {"about": dict(model.about), "layers": entries}
    description = json.dumps({"graph": first.graph.to_json(), "configurations": configurations})
    metadata = {"format": FORMAT, "version": VERSION, "description": description}
    metadata["sha256"] = digest(description, tensors)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # save_file hides errors of the file system


def kernel_name(layer: str, bits: int) -> str:
    """The name of the tensor of a layer's kernel at a bit-width."""
    return f"kernel/{layer}/{bits}"


def digest(description: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the description and each tensor's name and bytes, in the order of names.

    Args:
      description: the exact text in the file.
    """
    found = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensors[name]).tobytes())
    return found.hexdigest()


def _entry(data: LayerData) -> dict:
    return {
        "weight_bits": data.weight_bits,
        "input_bits": data.input_bits,
        "input_signed": data.input_signed,
        "input_step": data.input_step,
    }


def _packed(data: LayerData) -> np.ndarray:
    if data.weight_bits >= FULL_PRECISION:
        return data.kernel
    return pack(data.kernel, data.weight_bits)


def _add(tensors: dict[str, np.ndarray], name: str, values: np.ndarray) -> None:
    if not np.array_equal(tensors.setdefault(name, values), values):
        raise UserError(f"{name} differs between the configurations: they are of another network")
