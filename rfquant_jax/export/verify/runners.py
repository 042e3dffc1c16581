"""Runs exported files, each in its own runtime, for comparison with the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np

from rfquant_jax.export import files, format_names
from rfquant_jax.export.formats import integer_reader, stablehlo
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.verify import run_c, run_tflite
from rfquant_jax.export.verify.compare import Predict

Codes = Callable[[np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]]

_ONNX_RUNTIME = (lambda: find_spec("onnxruntime"), "onnxruntime")
# What runs a format, where that is no requirement of this package: how to find and to call it.
_OPTIONAL: Mapping[str, tuple[Callable[[], object], str]] = {
    format_names.ONNX: _ONNX_RUNTIME,
    format_names.ONNX_SMALL: _ONNX_RUNTIME,
    format_names.ONNX_FAST: _ONNX_RUNTIME,
    format_names.C: (run_c.compiler, "a C compiler (cc)"),
    format_names.TFLITE: (lambda: find_spec("ai_edge_litert"), "ai-edge-litert"),
    format_names.QONNX: (lambda: find_spec("qonnx"), "qonnx"),
}


@dataclass(frozen=True)
class Runner:
    """An exported file, read back from disk.

    Attributes:
      predict: logits of normalised images [N, H, W, C].
      codes: logits and the input codes of each layer; None if the runtime does not expose them.
    """

    predict: Predict
    codes: Codes | None = None
    dtype: type = np.float32

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Logits and codes, like `ReferenceModel`."""
        return self.codes(images)


def missing_runtime(kind: str) -> str | None:
    """The package to install for running a format; None if nothing is missing."""
    find, name = _OPTIONAL.get(kind, (lambda: True, ""))
    return None if find() else name


def open_all(paths: Mapping[str, Path]) -> dict[str, Runner]:
    """The runner of each file; formats without an installed runtime are skipped."""
    runnable = {kind: path for kind, path in paths.items() if missing_runtime(kind) is None}
    return {kind: _opened(kind, path) for kind, path in runnable.items()}


def _opened(kind: str, path: Path) -> Runner:
    failure = f"{path}: cannot be run as {kind}"
    with files.explained(failure):
        runner = _OPENERS[kind](path)

    def explaining(run: Callable | None) -> Callable | None:
        def explained_run(images: np.ndarray):
            with files.explained(failure):
                return run(images)

        return None if run is None else explained_run

    return Runner(explaining(runner.predict), explaining(runner.codes))


def run_integer(model: IntegerModel) -> Runner:
    """Runs a model that was read from a file of the integer format."""
    return Runner(lambda images: runtime.run(model, images))


def run_onnx(path: Path) -> Runner:
    """Runs an ONNX file with onnxruntime, on processors."""
    from rfquant_jax.export.verify import run_onnx as onnx_runtime  # onnxruntime may be missing

    return Runner(*onnx_runtime.load(path))


def _qonnx(path: Path) -> Runner:
    from rfquant_jax.export.verify import run_qonnx

    return Runner(*run_qonnx.load(path))


def _stablehlo(path: Path) -> Runner:
    artifact = stablehlo.read(path)
    call, size = jax.jit(artifact.call), artifact.in_avals[0].shape[0]
    processor = jax.devices("cpu")[0]

    def predict(images: np.ndarray) -> np.ndarray:
        with jax.default_device(processor):
            if not isinstance(size, int):
                return np.asarray(call(images))
            return _in_batches(call, images, size)

    return Runner(predict)


def _in_batches(call: Callable, images: np.ndarray, size: int) -> np.ndarray:
    """The logits of any number of images from a program with a fixed batch size."""
    missing = -len(images) % size
    padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    parts = [call(padded[i : i + size]) for i in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(images)]


_OPENERS: Mapping[str, Callable[[Path], Runner]] = {
    format_names.INTEGER: lambda path: run_integer(integer_reader.read(path).model()),
    format_names.ONNX: run_onnx,
    format_names.ONNX_SMALL: run_onnx,
    format_names.ONNX_FAST: run_onnx,
    format_names.STABLEHLO: _stablehlo,
    format_names.C: lambda path: Runner(run_c.load(path)),
    format_names.QONNX: _qonnx,
    format_names.TFLITE: lambda path: Runner(*run_tflite.load(path)),
}
