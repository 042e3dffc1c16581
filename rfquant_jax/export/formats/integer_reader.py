"""Reads files of integer models; all content is validated before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from rfquant_jax.errors import UserError, listed, one_line
from rfquant_jax.export.formats.integer import FORMAT, VERSION, digest, kernel_name
from rfquant_jax.export.ir.graph import Graph, GraphError, Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import AFFINE, CONSTANT, RESIDUAL
from rfquant_jax.export.ir.packing import WIDTHS, packed_size, unpack
from rfquant_jax.quant.lsq import FULL_PRECISION

_ENTRY = ("weight_bits", "input_bits", "input_signed", "input_step")


@dataclass(frozen=True)
class ModelFile:
    """The content of a file: one or several configurations of a network.

    Attributes:
      path: path of the file.
      models: models by configuration name.
    """

    path: Path
    models: Mapping[str, IntegerModel]

    def model(self, name: str | None = None) -> IntegerModel:
        """The model of a configuration; the name is optional if there is only one.

        Raises:
          UserError: unknown or missing name.
        """
        names = list(self.models)
        if name is None and len(names) == 1:
            return self.models[names[0]]
        if name not in self.models:
            missing = "needs the name of a configuration"
            asked = missing if name is None else f"has no configuration {name!r}"
            raise UserError(f"{self.path}: {one_line(f'{asked}; there are {listed(names, 20)}')}")
        return self.models[name]


def read(path: Path | str) -> ModelFile:
    """Reads and validates a file of `integer.write`.

    Raises:
      UserError: the file cannot be read, is damaged, or is of another kind.
    """
    path = Path(path)
    try:
        metadata, tensors = _open(path)
        return ModelFile(path, _models(metadata, tensors))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        reason = f"is damaged or not a safetensors file ({error})"
        raise UserError(f"{path}: {one_line(reason)}") from error
    except RecursionError as error:
        raise UserError(f"{path}: its description is nested too deeply") from error
    except UserError as error:
        raise UserError(f"{path}: {one_line(error)}") from error


def _open(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise UserError("is not an integer model of this project")
        if metadata.get("version") != VERSION:
            found = metadata.get("version")
            raise UserError(f"has version {found!r} of the format; this program reads {VERSION}")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        strange = [name for name, s in slices.items() if s.get_dtype() not in ("U8", "F32")]
        if strange:
            raise UserError(f"its tensors {listed(strange)} are neither U8 nor F32")
        return metadata, {name: file.get_tensor(name) for name in slices}


def _models(metadata: Mapping, tensors: dict[str, np.ndarray]) -> dict[str, IntegerModel]:
    text = metadata.get("description", "")
    if digest(text, tensors) != metadata.get("sha256"):
        raise UserError("is damaged: its content does not match its checksum")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"its description is not JSON ({error})") from error
    graph = Graph.from_json(content.get("graph") if isinstance(content, dict) else None)
    configurations = content.get("configurations")
    if not isinstance(configurations, dict) or not configurations:
        raise UserError("names no configuration")
    contents = _Contents(graph, tensors)
    models = {name: contents.model(name, entry) for name, entry in configurations.items()}
    if surplus := sorted(tensors.keys() - contents.used):
        raise UserError(f"holds tensors that nothing uses: {listed(surplus)}")
    return models


class _Contents:
    """The tensors of a file, requested with their expected shapes and dtypes.

    Attributes:
      used: names of the tensors requested so far.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, np.ndarray]):
        self.graph, self.used = graph, set()
        self._tensors = tensors
        self._kernels: dict[str, np.ndarray] = {}

    def model(self, name: str, entry: object) -> IntegerModel:
        """The model of this configuration.

        Raises:
          UserError: something is missing or does not fit the graph.
        """
        nodes = {node.layer: node for node in self.graph.layer_nodes}
        layers = entry.get("layers") if isinstance(entry, dict) else None
        if not isinstance(layers, dict) or layers.keys() != nodes.keys():
            raise UserError(f"configuration {name!r} does not have the graph's layers")
        data = {layer: self._layer(name, node, layers[layer]) for layer, node in nodes.items()}
        constants = {
            node.output: self._take(f"constant/{node.output}", np.float32, node.attributes["shape"])
            for node in self.graph.nodes
            if node.op == CONSTANT
        }
        about = entry.get("about")
        model = IntegerModel(self.graph, data, constants, about if isinstance(about, dict) else {})
        model.check()
        return model

    def _layer(self, name: str, node: Node, entry: object) -> LayerData:
        if not isinstance(entry, dict) or entry.keys() != set(_ENTRY):
            raise GraphError(f"layer {node.layer} of {name!r} must have {', '.join(_ENTRY)}")
        weight_bits, input_bits, signed, step = (entry[key] for key in _ENTRY)
        for bits in (weight_bits, input_bits):
            if type(bits) is not int or (bits not in WIDTHS and bits != FULL_PRECISION):
                raise GraphError(f"layer {node.layer} of {name!r}: no bit-width can be {bits!r}")
        if not isinstance(signed, bool) or type(step) is not float:
            raise GraphError(f"layer {node.layer} of {name!r}: its input is not described")
        if node.op == AFFINE and (weight_bits, input_bits) != (FULL_PRECISION, FULL_PRECISION):
            raise GraphError(f"layer {node.layer} of {name!r}: affine maps must have 32 bits")
        if node.op == RESIDUAL and (weight_bits, input_bits) != (FULL_PRECISION, 8):
            raise GraphError(f"layer {node.layer} of {name!r}: residual additions must have 8 bits")
        kernel = None if node.op in (AFFINE, RESIDUAL) else self._kernel(node, weight_bits)
        channels = [node.attributes.get("channels", 1) if kernel is None else len(kernel)]
        scale, bias = (
            self._take(f"{name}/{node.layer}/{part}", np.float32, channels)
            for part in ("scale", "bias")
        )
        return LayerData(weight_bits, input_bits, signed, step, kernel, scale, bias)

    def _kernel(self, node: Node, bits: int) -> np.ndarray:
        name, shape = kernel_name(node.layer, bits), node.attributes["kernel"]
        if bits >= FULL_PRECISION:
            return self._take(name, np.float32, shape)
        if name not in self._kernels:
            count = int(np.prod(shape, dtype=np.int64))
            packed = self._take(name, np.uint8, [packed_size(count, bits)])
            self._kernels[name] = unpack(packed, bits, count).reshape(shape)
        return self._kernels[name]

    def _take(self, name: str, dtype: type, shape) -> np.ndarray:
        found = self._tensors.get(name)
        if found is None:
            raise UserError(f"lacks the tensor {name!r}")
        if found.dtype != dtype or list(found.shape) != list(shape):
            wanted = f"{np.dtype(dtype).name}{list(shape)}"
            raise UserError(f"{name!r} is {found.dtype.name}{list(found.shape)}, not {wanted}")
        self.used.add(name)
        return found
