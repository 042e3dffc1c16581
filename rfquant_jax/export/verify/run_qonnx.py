"""Executes QONNX files with the package qonnx, one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that computes logits of normalised images [N, H, W, C]."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    wrapped = ModelWrapper(model).transform(InferShapes())

    def predict(images: np.ndarray) -> np.ndarray:
        rows = [
            execute_onnx(wrapped, {"image": np.ascontiguousarray(np.moveaxis(one, -1, 1))})
            for one in images[:, None]
        ]
        return np.concatenate([row["logits"] for row in rows])

    return predict
