"""Coupled networks at their configurations as files for other runtimes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfquant_jax.errors import ArgumentError
from rfquant_jax.evaluate.recalibrate import Recalibrate, statistics
from rfquant_jax.export import files
from rfquant_jax.export.formats import integer
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.verify.reference import fixed_network
from rfquant_jax.nn.functional import arrays_of
from rfquant_jax.quant.configuration import Configuration
from rfquant_jax.quant.coupled_network import CoupledNetwork, check_coupled
from rfquant_jax.runtime import devices

# The longest first: ".onnx" ends other formats' names, too.
_KINDS = sorted(files.SUFFIXES, key=lambda kind: -len(files.SUFFIXES[kind]))


def export(
    coupled: CoupledNetwork,
    configurations: Configuration | Sequence[Configuration],
    path: str | os.PathLike[str],
    *,
    recalibrate: Recalibrate = None,
    platforms: Sequence[str] = ("cpu",),
) -> list[Path]:
    """Writes integer models of configurations, in the format that the path's ending names.

    | ending | file |
    |---|---|
    | `.onnx` | ONNX that computes the evaluation's codes |
    | `.small.onnx` | ONNX of least size |
    | `.fast.onnx` | ONNX for the integer kernels of onnxruntime |
    | `.qonnx.onnx` | QONNX |
    | `.safetensors` | the integer format, packed; several configurations share one file |
    | `.stablehlo` | a StableHLO artifact of `jax.export` |
    | `.c` | C99 source |
    | `.tflite` | LiteRT, which needs ai-edge-litert |

    A file takes what the network itself takes, the result of `coupled.preprocess`, as float32
    [N, H, W, C] (ONNX: [N, C, H, W]) and returns logits [N, classes].

    Args:
      coupled: the network; it is not changed. It must compute in float32.
      configurations: one of the forms that `set_bits` takes, or a list of them, such as the result
        of `search`.
      path: its folder is created. With several configurations every file has the configuration's
        budget or number before the ending.
      recalibrate: images to take the BatchNorm statistics from, see `evaluate`.
      platforms: of a StableHLO artifact: cpu, cuda, rocm, tpu.

    Returns:
      the files, in the order of the configurations.

    Raises:
      ArgumentError: the ending is unknown, or there are no configurations.
      UserError: the network does what an integer model cannot express, or a file cannot be written.

    Example:
      >>> [file] = rfq.export(coupled, "w4a4", folder / "model.onnx")
      >>> import onnxruntime
      >>> session = onnxruntime.InferenceSession(file)
      >>> given = images[:8].transpose(0, 3, 1, 2)
      >>> [logits] = session.run(None, {session.get_inputs()[0].name: given})
      >>> logits.shape
      (8, 3)
    """
    path, rows = Path(path), _named(check_coupled(coupled), configurations)
    kind = next((k for k in _KINDS if path.name.endswith(files.SUFFIXES[k])), None)
    if kind is None:
        known = ", ".join(files.SUFFIXES.values())
        raise ArgumentError("path", str(path), f"must end in one of {known}")
    with files.writing(path.parent, "a folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    models = {name: _folded(coupled, name, row, recalibrate) for name, row in rows.items()}
    if kind == files.INTEGER and len(models) > 1:
        with files.writing(path, kind):
            integer.write(path, models)
        return [path]
    suffix = files.SUFFIXES[kind]
    stem = path.name.removesuffix(suffix)
    written = []
    for name, model in models.items():
        file = path if len(models) == 1 else path.with_name(f"{stem}_{name}{suffix}")
        files.write_one(file, kind, name, model, platforms)
        written.append(file)
    return written


def _named(coupled: CoupledNetwork, given: Any) -> dict[str, np.ndarray]:
    """The configurations int32[L, 2] by names that files can have."""
    # A single configuration may itself be a list of [weight bits, activation bits].
    single = np.shape(given) == np.shape(coupled.plan.space.largest)
    several = isinstance(given, list | tuple) and not single
    found: dict[str, np.ndarray] = {}
    for number, one in enumerate(given if several else [given]):
        text = getattr(one, "budget", one if isinstance(one, str) else f"{number}")
        name = re.sub(r"[^\w.]+", "_", Path(text).name.replace("*", "x")).strip("_.")
        found[name if name and name not in found else f"{name}_{number}"] = (
            coupled.plan.configuration(one)
        )
    if not found:
        raise ArgumentError("configurations", given, "names no configuration")
    return found


def _folded(
    coupled: CoupledNetwork, name: str, configuration: np.ndarray, images: Recalibrate
) -> IntegerModel:
    params = devices.replicate(arrays_of(coupled.network)[0], coupled.mesh)
    measured = statistics(coupled, params, configuration, images)
    network = fixed_network(coupled.functional, params, measured, configuration)
    about: Mapping[str, Any] = {
        "configuration": name,
        "layers": coupled.plan.space.to_json(configuration),
        "input": "float32, what the network takes",
        **coupled.plan.costs(configuration),
    }
    return fold(network, coupled.plan.image_shape, about)
