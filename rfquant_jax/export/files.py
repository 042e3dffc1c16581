"""The files of one exported configuration: how each format is written, and run to be verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jax
import numpy as np
import onnxruntime

from rfquant_jax.config.checks import EXPORT_FORMATS
from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import integer as integer_format
from rfquant_jax.export.formats import integer_reader as reading
from rfquant_jax.export.formats import onnx as onnx_model
from rfquant_jax.export.formats import stablehlo
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.verify.compare import Predict

INTEGER, ONNX, ONNX_SMALL, STABLEHLO, BUNDLE = EXPORT_FORMATS
SUFFIXES = {
    INTEGER: ".safetensors",
    ONNX: ".onnx",
    ONNX_SMALL: ".small.onnx",
    STABLEHLO: ".stablehlo",
}
BUNDLE_FILE = "bundle.safetensors"


def write_all(folder: Path, name: str, model: IntegerModel, formats, platforms) -> dict[str, Path]:
    """Writes one configuration in every asked format but the bundle, the integer one always.

    Returns:
      the files by format.
    """
    with writing(folder, "a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    writers: Mapping[str, Callable[[Path], None]] = {
        INTEGER: lambda path: integer_format.write(path, {name: model}),
        ONNX: lambda path: onnx_model.write(path, model, small=False),
        ONNX_SMALL: lambda path: onnx_model.write(path, model, small=True),
        STABLEHLO: lambda path: stablehlo.write(path, model, platforms),
    }
    asked = [kind for kind in writers if kind in formats or kind == INTEGER]
    paths = {kind: folder / f"{name}{SUFFIXES[kind]}" for kind in asked}
    for kind, path in paths.items():
        with writing(path, kind):
            writers[kind](path)
    return paths


def writing(path: Path, kind: str) -> AbstractContextManager:
    """Turns whatever a writer's libraries raise into an error of one line."""
    return _explained(f"{path}: cannot be written as {kind}")


@contextmanager
def _explained(failure: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of onnx, onnxruntime, protobuf, safetensors, JAX or the disk
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise UserError(f"{failure} ({reason.splitlines()[0]})") from error


def open_all(paths: Mapping[str, Path]) -> dict[str, Predict]:
    """What runs each file, read back from disk."""
    openers = {INTEGER: _integer, ONNX: onnx, ONNX_SMALL: onnx, STABLEHLO: _stablehlo}
    return {kind: _opened(openers[kind], kind, path) for kind, path in paths.items()}


def _opened(opener: Callable[[Path], Predict], kind: str, path: Path) -> Predict:
    failure = f"{path}: cannot be run as {kind}"
    with _explained(failure):
        predict = opener(path)

    def explaining(images: np.ndarray) -> np.ndarray:
        with _explained(failure):
            return predict(images)

    return explaining


def _integer(path: Path) -> Predict:
    model = reading.read(path).model()
    return lambda images: runtime.run(model, images)


def onnx(path: Path) -> Predict:
    """Runs an ONNX file with onnxruntime, on processors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(images: np.ndarray) -> np.ndarray:
        channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        return session.run(None, {name: channels_first})[0]

    return predict


def _stablehlo(path: Path) -> Predict:
    call = jax.jit(stablehlo.read(path).call)
    processor = jax.devices("cpu")[0]

    def predict(images: np.ndarray) -> np.ndarray:
        with jax.default_device(processor):
            return np.asarray(call(images))

    return predict
