"""Executes QONNX files with the package qonnx."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

from rfquant_jax.export.formats.onnx import CODES
from rfquant_jax.export.verify.run_onnx import channels_first, read_codes, tensors_of


def load(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], Callable]:
    """What computes the logits of normalised images [N, H, W, C], and them with the codes."""
    run, where = _executor(path), _where(path)

    def codes(images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        found = run(images)
        by_name = {f"{name}/int32": found[name].astype(np.int32) for name in tensors_of(where)}
        return found["logits"], {layer: read_codes(by_name, held) for layer, held in where.items()}

    return lambda images: run(images)["logits"], codes


def _where(path: Path) -> Mapping[str, Mapping | list]:
    """Where the codes are, by layer."""
    held = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    return json.loads(held[CODES])


def _executor(path: Path) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    """What computes all tensors by name.

    The package needs the shape of every tensor, so there is one model for each number of images.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    models: dict[int, ModelWrapper] = {}

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        size = len(images)
        if size not in models:
            model = onnx.load(path)
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = size
            models[size] = ModelWrapper(model).transform(InferShapes())
        given = {"image": channels_first(images)}
        return execute_onnx(models[size], given, return_full_exec_context=True)

    return run
