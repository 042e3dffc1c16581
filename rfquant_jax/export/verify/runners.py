"""Runs exported files, each in its own runtime, for comparison with the evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime

from rfquant_jax.export import files
from rfquant_jax.export.formats import integer_reader, stablehlo
from rfquant_jax.export.formats import onnx as onnx_model
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.verify import run_c, run_qonnx, run_tflite
from rfquant_jax.export.verify.compare import Predict

Codes = Callable[[np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]]

# Optional runtimes of formats: module and package names.
_OPTIONAL: Mapping[str, tuple[Callable[[], object], str]] = {
    files.C: (run_c.compiler, "a C compiler (cc)"),
    files.TFLITE: (lambda: find_spec("ai_edge_litert"), "ai-edge-litert"),
    files.QONNX: (lambda: find_spec("qonnx"), "qonnx"),
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


def _integer(path: Path) -> Runner:
    model = integer_reader.read(path).model()
    return Runner(lambda images: runtime.run(model, images))


def session(content: bytes | str, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An onnxruntime session on CPU; by default on all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(path: Path) -> Runner:
    """Runs an ONNX file with onnxruntime, on CPU."""
    opened = session(str(path))

    def predict(images: np.ndarray) -> np.ndarray:
        return opened.run(None, {opened.get_inputs()[0].name: _channels_first(images)})[0]

    return Runner(predict, _OnnxCodes(path))


class _OnnxCodes:
    """An ONNX file with every layer's codes as additional outputs, opened on first use."""

    def __init__(self, path: Path):
        self._path = path

    @cached_property
    def _opened(self) -> tuple[Mapping[str, Mapping], onnxruntime.InferenceSession]:
        where, content = with_codes(self._path)
        return where, session(content)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        where, opened = self._opened
        names = [output.name for output in opened.get_outputs()]
        found = opened.run(names, {opened.get_inputs()[0].name: _channels_first(images)})
        by_name = dict(zip(names, found, strict=True))
        return found[0], {layer: read_codes(by_name, entry) for layer, entry in where.items()}


def with_codes(path: Path) -> tuple[Mapping[str, Mapping], bytes]:
    """The tensors of the codes by layer, and the model with these as outputs after the logits.

    The output of a tensor `name` is called `name/int32`; see `read_codes`.
    """
    model = onnx.load(path)
    held = {prop.key: prop.value for prop in model.metadata_props}
    where = json.loads(held[onnx_model.CODES])
    kind = onnx.TensorProto.INT32
    for name in sorted({entry["tensor"] for entry in where.values()}):
        made = onnx.helper.make_node("Cast", [name], [f"{name}/int32"], to=kind)
        model.graph.node.append(made)
        model.graph.output.append(onnx.helper.make_tensor_value_info(made.output[0], kind, None))
    return where, model.SerializeToString()


def read_codes(by_name: Mapping[str, np.ndarray], entry: Mapping) -> np.ndarray:
    """One layer's codes in the network's layout: int16, channels last, in order."""
    codes = (by_name[f"{entry['tensor']}/int32"] - entry["zero"]).astype(np.int16)
    codes = codes if entry["places"] is None else codes[:, entry["places"]]
    return np.moveaxis(codes, 1, -1) if codes.ndim == 4 else codes


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


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
    files.INTEGER: _integer,
    files.ONNX: run_onnx,
    files.ONNX_SMALL: run_onnx,
    files.ONNX_FAST: run_onnx,
    files.STABLEHLO: _stablehlo,
    files.C: lambda path: Runner(run_c.load(path)),
    files.QONNX: lambda path: Runner(run_qonnx.load(path)),
    files.TFLITE: lambda path: Runner(*run_tflite.load(path)),
}
