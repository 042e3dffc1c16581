"""Runs ONNX files with onnxruntime, and shows the codes of every layer in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from rfquant_jax.export.formats.onnx import CODES
from rfquant_jax.export.formats.onnx_codes import DEFAULTS
from rfquant_jax.runtime import cpus


def load(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], Callable]:
    """What computes the logits of normalised images [N, H, W, C], and them with the codes."""
    opened = session(str(path))

    def predict(images: np.ndarray) -> np.ndarray:
        return opened.run(None, {opened.get_inputs()[0].name: channels_first(images)})[0]

    return predict, _Codes(path)


def session(content: bytes | str, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An onnxruntime session on processors; by default on all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpus.available()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class _Codes:
    """An ONNX file with every layer's codes as further outputs, opened when it is first called."""

    def __init__(self, path: Path):
        self._path = path

    @cached_property
    def _opened(self) -> tuple[Mapping[str, Mapping], onnxruntime.InferenceSession]:
        where, content = with_codes(self._path)
        return where, session(content)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        where, opened = self._opened
        names = [output.name for output in opened.get_outputs()]
        found = opened.run(names, {opened.get_inputs()[0].name: channels_first(images)})
        by_name = dict(zip(names, found, strict=True))
        return found[0], {layer: read_codes(by_name, entry) for layer, entry in where.items()}


def with_codes(path: Path) -> tuple[Mapping[str, Mapping], bytes]:
    """Where a file's codes are, by layer, and the model with them as outputs behind the logits.

    The outputs of a tensor `name` are called `name/int32`; see `read_codes`.
    """
    model = onnx.load(path)
    held = {prop.key: prop.value for prop in model.metadata_props}
    where = json.loads(held[CODES])
    kind = onnx.TensorProto.INT32
    for name in tensors_of(where):
        made = onnx.helper.make_node("Cast", [name], [f"{name}/int32"], to=kind)
        model.graph.node.append(made)
        model.graph.output.append(onnx.helper.make_tensor_value_info(made.output[0], kind, None))
    return where, model.SerializeToString()


def tensors_of(where: Mapping[str, Mapping | list]) -> list[str]:
    """The names of all tensors of codes; a residual addition reads two."""
    entries = [held if isinstance(held, list) else [held] for held in where.values()]
    return sorted({entry["tensor"] for held in entries for entry in held})


def read_codes(by_name: Mapping[str, np.ndarray], entry: Mapping | list) -> np.ndarray:
    """One layer's codes as the network has them: int16, its channels last and in order.

    Those of a residual addition are stacked, see `CodesOf`.
    """
    if isinstance(entry, list):
        return np.stack([read_codes(by_name, one) for one in entry], axis=1)
    entry = DEFAULTS | entry
    codes = by_name[f"{entry['tensor']}/int32"] - entry["zero"]
    codes = (codes // entry["gain"]).astype(np.int16)
    if entry["channels_last"]:
        return codes
    codes = codes if entry["places"] is None else codes[:, entry["places"]]
    return np.moveaxis(codes, 1, -1) if codes.ndim == 4 else codes


def channels_first(images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] as [N, C, H, W]."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))
