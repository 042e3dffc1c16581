"""Captures the graph of a network by tracing its evaluation once, with layers as opaque operations.

A network is arbitrary Python code around convolutions, dense layers and BatchNorms. These are
replaced by marker primitives. `translate` sees everything between them as JAX primitives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Primitive

from rfquant_jax.export.ir.graph import INPUT, Graph, Node
from rfquant_jax.export.ir.operations import AFFINE, CONVOLUTION, DENSE, RESIDUAL
from rfquant_jax.export.trace.translate import Translator, UnsupportedNetwork
from rfquant_jax.nn.functional import dotted, replace_modules
from rfquant_jax.quant.batch_norm import SwitchableBatchNorm
from rfquant_jax.quant.layers import QuantConv, QuantDense
from rfquant_jax.quant.plain_layers import ALL_KEPT
from rfquant_jax.quant.residual import QuantResidualAdd

_MARK = Primitive("rfquant_layer")
_MARK.def_abstract_eval(lambda x, *_, place, shape: x.update(shape=shape))

Normalization = nnx.BatchNorm | SwitchableBatchNorm
_LAYERS = QuantConv | QuantDense | QuantResidualAdd | Normalization


class _Mark(nnx.Module):
    """Replaces a layer by a primitive with its name and output shape."""

    def __init__(self, inner: nnx.Module, place: str):
        self.inner, self.place = inner, place

    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        del use_running_average  # what a BatchNorm may be called with; the network is in its mode
        y = jax.eval_shape(self.inner, jax.ShapeDtypeStruct(x.shape, x.dtype))
        return _MARK.bind(x, place=self.place, shape=y.shape)

    def __getattr__(self, name: str):
        inner = vars(self).get("inner")
        if inner is not None and name in ALL_KEPT:  # what the network's code may read
            return getattr(inner, name)
        raise AttributeError(f"{type(self).__name__} has no {name}", name=name, obj=self)


class _MarkSum(nnx.Module):
    """Replaces a quantized residual addition by the primitive."""

    def __init__(self, place: str):
        self.place = place

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return _MARK.bind(x, y, place=self.place, shape=x.shape)


def _marked(module: nnx.Module, place: str) -> nnx.Module:
    return _MarkSum(place) if isinstance(module, QuantResidualAdd) else _Mark(module, place)


@dataclass(frozen=True)
class Captured:
    """A network's graph and its layers.

    Attributes:
      graph: the graph; BatchNorms that directly follow a layer are folded into it.
      modules: convolutions, dense layers, quantized residual additions and remaining BatchNorms, by
        name.
      norms: the folded BatchNorm of each layer, by layer name.
      constants: constant arrays by node.
    """

    graph: Graph
    modules: Mapping[str, nnx.Module]
    norms: Mapping[str, Normalization]
    constants: Mapping[str, jax.Array]


def capture(network: nnx.Module, input_shape: Sequence[int]) -> Captured:
    """The graph of a coupled network in evaluation.

    Args:
      network: in evaluation mode, with its configuration assigned; not modified.
      input_shape: (H, W, C) of the images.

    Raises:
      UnsupportedNetwork: an integer model cannot express the operations between its layers.
    """
    modules = {
        dotted(path): module
        for path, module in nnx.iter_modules(network)
        if isinstance(module, _LAYERS)
    }
    marked = nnx.clone(network)
    marks = {
        path: _marked(module, dotted(path))
        for path, module in nnx.iter_modules(marked)
        if isinstance(module, _LAYERS)
    }
    replace_modules(marked, marks)
    # Traced with two batch sizes: equal graphs contain no size that depends on the batch.
    first, second = (_trace(marked, modules, (count, *input_shape)) for count in (2, 3))
    if first.graph != second.graph:
        raise UnsupportedNetwork("what it computes depends on the number of images in the batch")
    return _absorb_norms(first)


def _trace(marked: nnx.Module, modules: Mapping[str, nnx.Module], shape) -> Captured:
    jaxpr = jax.make_jaxpr(marked)(jax.ShapeDtypeStruct(shape, jnp.float32))
    translator = Translator(shape[0], {_MARK: lambda p, x: _layer_node(modules[p["place"]], p, x)})
    output = translator.translate(jaxpr, INPUT, shape)
    graph = Graph(tuple(shape[1:]), tuple(translator.nodes), output)
    return Captured(graph, modules, {}, translator.constants)


def _layer_node(module: nnx.Module, params: Mapping, shape: tuple[int, ...]) -> tuple[str, dict]:
    """The operation and attributes of a marked layer; `shape` is the shape of its input."""
    name = params["place"]
    if isinstance(module, Normalization):
        return AFFINE, {"layer": name, "channels": shape[-1]}
    if isinstance(module, QuantResidualAdd):
        return RESIDUAL, {"layer": name}
    kernel = module.kernel[...].shape
    if isinstance(module, QuantDense):
        return DENSE, {"layer": name, "kernel": list(kernel[::-1])}
    padding = module.padding
    if isinstance(padding, str):
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, module.dilation, strict=False)]
        padding = jax.lax.padtype_to_pads(shape[1:3], spans, module.strides, padding)
    return CONVOLUTION, {
        "layer": name,
        "kernel": [kernel[3], *kernel[:3]],
        "strides": list(module.strides),
        "padding": [[int(low), int(high)] for low, high in padding],
        "dilation": list(module.dilation),
        "groups": module.groups,
    }


def _absorb_norms(found: Captured) -> Captured:
    """Folds each BatchNorm into its layer if it is the only reader of the layer's output."""
    graph = found.graph
    takers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            takers.setdefault(name, []).append(node)
    absorbed: dict[str, Node] = {}
    for node in graph.nodes:
        after = takers.get(node.output, [])
        followed = len(after) == 1 and after[0].op == AFFINE and node.output != graph.output
        if node.op in (CONVOLUTION, DENSE) and followed:
            absorbed[node.output] = after[0]
    swallowed = {norm.output for norm in absorbed.values()}
    nodes = tuple(
        Node(node.op, node.inputs, absorbed[node.output].output, node.attributes)
        if node.output in absorbed
        else node
        for node in graph.nodes
        if node.output not in swallowed
    )
    norms = {
        node.layer: found.modules[absorbed[node.output].layer]
        for node in graph.nodes
        if node.output in absorbed
    }
    graph = Graph(graph.input_shape, nodes, graph.output)
    kept = {node.layer: found.modules[node.layer] for node in graph.layer_nodes}
    return Captured(graph, kept, norms, found.constants)
