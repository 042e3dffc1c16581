"""Exports a coupled network at its configurations as files for other runtimes."""

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
from rfquant_jax.export.exported_file import Check, ExportedFile, Made, Verify, verification
from rfquant_jax.export.format_names import INTEGER, SUFFIXES
from rfquant_jax.export.formats import integer, integer_reader
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.verify.reference import fixed_network
from rfquant_jax.export.verify.runners import open_all, run_integer
from rfquant_jax.export.verify.verify import Limits
from rfquant_jax.nn.functional import arrays_of
from rfquant_jax.quant.configuration import Configuration
from rfquant_jax.quant.coupled_network import CoupledNetwork, check_coupled
from rfquant_jax.runtime import devices

# The longest first: ".onnx" is also the end of other formats' endings.
_KINDS = sorted(SUFFIXES, key=lambda kind: -len(SUFFIXES[kind]))


def export(
    coupled: CoupledNetwork,
    configurations: Configuration | Sequence[Configuration],
    path: str | os.PathLike[str],
    *,
    recalibrate: Recalibrate = None,
    verify: Verify = None,
    max_unequal: float = 0.001,
    max_unequal_float: float = 0.005,
    platforms: Sequence[str] = ("cpu",),
) -> list[ExportedFile]:
    """Writes integer models of configurations, and verifies them against the evaluation.

    The ending of the path decides the format:

    | ending | file |
    |---|---|
    | `.onnx` | ONNX with QuantizeLinear and DequantizeLinear around each layer |
    | `.small.onnx` | the same, with kernels of up to 4 bits in int4: the smallest ONNX file |
    | `.fast.onnx` | ONNX for the integer kernels of onnxruntime |
    | `.qonnx.onnx` | QONNX |
    | `.safetensors` | the packed integer format; several configurations share one file |
    | `.stablehlo` | a StableHLO artifact of `jax.export` |
    | `.c` | C99 source |
    | `.tflite` | LiteRT; needs the package ai-edge-litert |

    A file takes the network's input, that is, the output of `coupled.preprocess`, as float32
    [N, H, W, C] (ONNX: [N, C, H, W]). It returns logits [N, classes].

    Each file is read back and run in its own runtime, if this is installed. Its predictions are
    compared with those of the evaluation, and the codes of every layer with the evaluation's codes.

    Args:
      coupled: the network; it is not modified. It must compute in float32.
      configurations: one configuration in any form that `set_bits` takes, or a list of them, such
        as the result of `search`.
      path: the file; its folder is created. With several configurations, the budget or the number
        of the configuration is added to each name, before the ending.
      recalibrate: images for the BatchNorm statistics, see `evaluate`.
      verify: images to verify on, [N, H, W, C] or batches of one shape, in the form that
        `coupled.preprocess` takes; at most 1,000 are used. None: the images of `recalibrate`,
        or else the calibration images of `couple`. False: files are not verified.
      max_unequal: largest fraction of predictions of a `.safetensors` file that may differ from the
        evaluation in float64. One may always differ.
      max_unequal_float: the same for other formats, compared with the evaluation in float32.
      platforms: platforms of a StableHLO artifact: cpu, cuda, rocm, tpu.

    Returns:
      the files, in the order of the configurations. `note` says whether a file was verified.

    Raises:
      ArgumentError: the ending is unknown, or there are no configurations.
      UserError: an integer model cannot express the network; a file cannot be written or run; or
        its predictions or codes differ from the evaluation by more than rounding.

    Example:
      >>> [file] = rfq.export(coupled, "w4a4", folder / "model.onnx")
      >>> file.note
      'verified'
      >>> import onnxruntime
      >>> session = onnxruntime.InferenceSession(file)
      >>> given = images[:8].transpose(0, 3, 1, 2)
      >>> [logits] = session.run(None, {session.get_inputs()[0].name: given})
      >>> logits.shape
      (8, 3)
    """
    path, rows = Path(path), _named(check_coupled(coupled), configurations)
    kind = next((k for k in _KINDS if path.name.endswith(SUFFIXES[k])), None)
    if kind is None:
        raise ArgumentError("path", str(path), f"must end in one of {', '.join(SUFFIXES.values())}")
    with files.writing(path.parent, "a folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    made = {name: _made(coupled, name, row, recalibrate) for name, row in rows.items()}
    limits = Limits(max_unequal, max_unequal_float)
    check = verification(coupled, kind, verify, recalibrate, platforms, limits)
    if kind == INTEGER and len(made) > 1:
        return [_write_bundle(path, made, check)]
    suffix = SUFFIXES[kind]
    stem, written = path.name.removesuffix(suffix), []
    for name, one in made.items():
        file = path if len(made) == 1 else path.with_name(f"{stem}_{name}{suffix}")
        files.write_one(file, kind, name, one.model, platforms)
        written.append(check(file, one, lambda file=file: open_all({kind: file})))
    return written


def _write_bundle(path: Path, made: Mapping[str, Made], check: Check) -> ExportedFile:
    """Writes all configurations into one integer file and verifies each of them."""
    with files.writing(path, INTEGER):
        integer.write(path, {name: one.model for name, one in made.items()})
    bundle, found = integer_reader.read(path), None
    for name, one in made.items():
        stored = bundle.model(name)
        found = check(path, one, lambda stored=stored: {INTEGER: run_integer(stored)})
    return found


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


def _made(
    coupled: CoupledNetwork, name: str, configuration: np.ndarray, images: Recalibrate
) -> Made:
    params = devices.replicate(arrays_of(coupled.network)[0], coupled.mesh)
    measured = statistics(coupled, params, configuration, images)
    network = fixed_network(coupled.functional, params, measured, configuration)
    about: Mapping[str, Any] = {
        "configuration": name,
        "layers": coupled.plan.space.to_json(configuration),
        "input": "float32, what the network takes",
        **coupled.plan.costs(configuration),
    }
    return Made(fold(network, coupled.plan.image_shape, about), network)
