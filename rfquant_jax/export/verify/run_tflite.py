"""Runs a LiteRT model with ai-edge-litert, on CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rfquant_jax.export.formats.tflite import CODES
from rfquant_jax.export.formats.tflite_graph import METADATA, schema
from rfquant_jax.runtime import cpus

Places = list[list[int]]  # tensor and zero point of each input of a layer, see `tflite.Codes`


def load(path: Path, threads: int | None = None) -> tuple[Callable, Callable]:
    """Functions that compute the logits of a file, and logits together with the codes of every
    layer.

    Args:
      threads: number of threads; default: all cores.
    """
    content = path.read_bytes()
    predict = _interpreter(content, threads)
    where: dict[str, Places] = {}
    interpreters: list[Callable] = []

    def codes(images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if not interpreters:
            found, held = _with_codes(content)
            where.update(found)
            interpreters.append(_interpreter(held, threads))
        logits, *outputs = interpreters[0](images)
        left = iter(outputs)
        return logits, {layer: _codes(entries, left) for layer, entries in where.items()}

    return lambda images: predict(images)[0], codes


def _codes(entries: Places, outputs: Iterator[np.ndarray]) -> np.ndarray:
    """One layer's codes, int16; those of a residual addition are stacked, see `CodesOf`."""
    found = [next(outputs).astype(np.int16) - zero for _, zero in entries]
    return found[0] if len(found) == 1 else np.stack(found, axis=1)


def _interpreter(content: bytes, threads: int | None) -> Callable[[np.ndarray], list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter

    threads = threads or cpus.available()
    opened = Interpreter(model_content=content, num_threads=threads)
    (image,) = opened.get_input_details()

    def run(images: np.ndarray) -> list[np.ndarray]:
        if images.shape[1:] != tuple(image["shape"][1:]):
            raise ValueError(
                f"images {images.shape} must have the shape {image['shape_signature']}"
            )
        opened.resize_tensor_input(image["index"], images.shape)
        opened.allocate_tensors()
        opened.set_tensor(image["index"], np.ascontiguousarray(images))
        opened.invoke()
        return [opened.get_tensor(output["index"]) for output in opened.get_output_details()]

    return run


def _with_codes(content: bytes) -> tuple[dict[str, Places], bytes]:
    """The tensors of the codes by layer, and the model with these as additional outputs."""
    import flatbuffers

    made = schema()
    model = made.ModelT.InitFromObj(made.Model.GetRootAs(content))
    (held,) = (entry for entry in model.metadata if entry.name == METADATA.encode())
    about = json.loads(bytes(model.buffers[held.buffer].data))
    where = about[CODES]
    tensors = [tensor for entries in where.values() for tensor, _ in entries]
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, *tensors]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return where, bytes(builder.Output())
