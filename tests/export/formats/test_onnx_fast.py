"""The nodes of the file for onnxruntime, and those that onnxruntime makes of them."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rfquant_jax.export.formats import onnx_fast
from rfquant_jax.export.formats.onnx_allowance import LARGEST_SHARE, Allowance
from rfquant_jax.export.formats.onnx_codes import Codes, bounded, multiplied
from rfquant_jax.export.formats.onnx_nodes import Nodes
from rfquant_jax.export.ir.graph import INPUT
from rfquant_jax.export.verify.compare import compare_codes
from rfquant_jax.export.verify.runners import run_onnx
from tests.export.random_models import Builder


def run_nodes(nodes, codes, stored):
    """Runs nodes that read the tensor "x"."""
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, list(stored.shape))
    y = helper.make_tensor_value_info(codes.name, TensorProto.UINT8, None)
    graph = helper.make_graph(nodes.nodes, "g", [x], [y], nodes.initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run(None, {"x": stored})[0].astype(int)


@pytest.mark.parametrize(
    ("zero", "low", "top", "gain"), [(0, 0, 3, 85), (0, 0, 15, 17), (8, 0, 15, 16), (4, 2, 6, 30)]
)
def test_a_factor_takes_the_place_of_a_clip(zero, low, top, gain):
    """Every stored value stands for the nearest code of the range, low - zero to top - zero."""
    stored = np.arange(256, dtype=np.uint8)
    nodes = Nodes(13)
    codes = multiplied(nodes, Codes("x", zero, 1, low=low, top=top), gain)
    assert ("Clip" in {node.op_type for node in nodes.nodes}) == (low > 0)
    found = run_nodes(nodes, codes, stored)
    expected = gain * (np.clip(stored.astype(int), low, top) - zero)
    np.testing.assert_array_equal(found - codes.zero, expected)
    assert codes.gain == gain
    assert bounded(nodes, codes) == codes


def residual_model(seed=3):
    """Three blocks with residual additions in 8 bits, the second with a shortcut by a slice."""
    b = Builder(seed, (8, 8, 3))
    x = b.relu(b.conv(INPUT, 16, 3, bits=8))
    for stride in (1, 2, 1):
        start, inputs = x, b.values[x].shape[-1]
        x = b.relu(b.conv(x, inputs * stride, 3, stride, bits=3, input_bits=3))
        x = b.conv(x, inputs * stride, 3, bits=2, input_bits=4)
        if stride > 1:
            shape = list(b.values[start].shape[1:])
            parts = {"starts": [0, 0, 0], "limits": shape, "strides": [stride, stride, 1]}
            start = b.op("slice", start, **parts)
            start = b.op("pad", start, padding=[[0, 0], [0, 0], [8, 8]], value=0.0)
        x = b.relu(b.residual(x, start))
    x = b.op("divide", b.op("sum", x, axes=[1, 2]), 16.0)
    x = b.layer("dense", x, (4, 32), 8, 8)
    return b.model(x), b.images


def optimized(path):
    """Counts the nodes that onnxruntime runs, by type."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_onnxruntime_runs_residual_blocks_on_codes_without_transpositions(tmp_path):
    model, images = residual_model()
    path = tmp_path / "m.onnx"
    onnx_fast.write(path, model)
    found = optimized(path)
    assert found["QLinearConv"] == 6 + 1  # and the shortcut
    assert found["QLinearAdd"] == 3 + 2  # each sum has two readers, except for the last one
    assert found["Conv"] == 1  # the stem
    assert found["MatMulIntegerToFloat"] == 1
    assert found["Transpose"] <= 2  # before the mean
    assert found["Slice"] == found["Pad"] == found["Cast"] == 0
    batch = {"image": images, "label": np.zeros(len(images), np.int32)}
    compared = compare_codes(model, run_onnx(path), [batch])
    assert compared.total["different"] == 0
    assert sum(c.total for c in compared.layers.values()) > 10000


def test_integer_products_with_a_bias_are_one_node(tmp_path):
    b = Builder(0, (6, 6, 3))
    x = b.relu(b.conv(INPUT, 8, 3, bits=8))
    x = b.op("add", b.conv(x, 8, bits=4, input_bits=4), x)
    x = b.layer("dense", b.op("sum", x, axes=[1, 2]), (4, 8), 8, 8)
    path = tmp_path / "m.onnx"
    onnx_fast.write(path, b.model(x))
    found = optimized(path)
    assert found["MatMulIntegerToFloat"] == 2
    assert found["Add"] == 1  # of the shortcut


def test_only_the_main_node_of_a_layer_has_its_name(tmp_path):
    """Names and default attributes would be a tenth of the file of a small network."""
    model, _ = residual_model()
    made = onnx_fast.make(model)
    nodes, held = made.graph.node, {p.key: p.value for p in made.metadata_props}
    assert len({node.name for node in nodes}) == len(nodes)
    products = ("Conv", "MatMulInteger")
    found = [n.name.split("/")[0] for n in nodes if n.op_type in products and "/" in n.name]
    kernels = {name for name, data in model.layers.items() if data.kernel is not None}
    assert kernels <= set(found)
    others = [n for n in nodes if n.op_type not in products]
    assert max(len(n.name) for n in others) <= len("logits")
    assert max(len(i.name) for i in made.graph.initializer) <= 4
    assert json.loads(held["codes"]).keys() == model.layers.keys() - {"layer.0"}
    assert json.loads(held["codes"])["layer.1"].keys() == {"tensor"}
    for node in nodes:
        for one in node.attribute:
            plain = helper.get_attribute_value(one)
            assert (one.name, plain) not in [("group", 1), ("strides", [1, 1]), ("pads", [0] * 4)]


def hard_model(deviation):
    """A layer without constants that are exact, and the spread of its outputs."""
    b = Builder(1, (8, 8, 3))
    x = b.relu(b.conv(INPUT, 16, 3, bits=8))
    y = b.conv(x, 16, 3, bits=6, input_bits=6)
    mean, layer = b.values[y].mean((0, 1, 2)), b.nodes[-1].layer
    spread = None
    if deviation is not None:
        spread = np.stack([mean, np.full(16, deviation)])
    b.layers[layer] = replace(b.layers[layer], spread=spread)
    x = b.relu(b.residual(y, x))
    x = b.layer("dense", b.op("sum", x, axes=[1, 2]), (4, 16), 8, 8)
    return b.model(x)


@pytest.mark.parametrize(("deviation", "floats"), [(None, True), (100.0, True), (0.01, False)])
def test_a_layer_is_computed_in_float_unless_wrong_codes_are_unlikely(deviation, floats, tmp_path):
    """Outputs within a few hundredths pass few code boundaries, those of any size all of them."""
    path = tmp_path / "m.onnx"
    onnx_fast.write(path, hard_model(deviation))
    assert (optimized(path)["Conv"] > 1) == floats


def test_the_allowance_is_a_share_of_all_codes():
    model = hard_model(None)
    allowance = Allowance(model)
    codes = 3 * 8 * 8 * 16 + 16  # two operands of the addition, the convolution's, and the dense
    assert allowance.left == pytest.approx(LARGEST_SHARE * codes)
    nodes = model.graph.nodes
    value = next(n.output for n in nodes if n.attributes.get("layer") == "layer.1")
    assert allowance.share(value) == pytest.approx(LARGEST_SHARE * codes / 1024)
    allowance.spend(value, 2e-6)
    assert allowance.left == pytest.approx(LARGEST_SHARE * codes - 1024 * 2e-6)
