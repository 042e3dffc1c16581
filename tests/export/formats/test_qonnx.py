"""QONNX files, executed where the package qonnx is installed."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from rfquant_jax.export.formats import qonnx
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.graph import INPUT
from rfquant_jax.export.verify.compare import compare_codes
from rfquant_jax.export.verify.runners import open_all
from tests.export.random_models import Builder, models


def test_bit_widths_are_those_of_the_model(model):
    """The network of the fixture: weights at 6, 2, 5, 3 bits and inputs at 2, 6, 3, 4."""
    made = qonnx.make(model)
    held = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    found = {}
    for node in made.graph.node:
        if node.op_type == "Quant":
            kind = "weights" if node.input[0] in held else "input"
            found[node.name.split("/")[0], kind] = int(held[node.input[3]])
            assert held[node.input[2]] == 0
    for layer, data in model.layers.items():
        assert found[layer, "weights"] == data.weight_bits
        assert found.get((layer, "input"), 32) == data.input_bits
    for layer, data in model.layers.items():
        kernel = held[f"{layer}.kernel"]
        assert set(np.unique(kernel)) == set(np.unique(data.kernel).astype(np.float32))
    assert {o.domain for o in made.opset_import} == {"", "qonnx.custom_op.general"}


def test_activations_are_quantized_as_finn_converts_them(model):
    """`Quant` with scale 1: behind a Relu for unsigned codes, else behind a Div."""
    made = qonnx.make(model)
    held = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    makers, readers = {n.output[0]: n for n in made.graph.node}, {}
    for node in made.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    kinds = set()
    for node in made.graph.node:
        if node.op_type == "Quant":
            assert held[node.input[1]] == 1
            (signed,) = (a.i for a in node.attribute if a.name == "signed")
            maker = makers.get(node.input[0])
            kinds.add((signed, maker and maker.op_type))
            if not signed:
                divided = makers[maker.input[0]]
                assert divided.op_type == "Div"
                # No ReLU of the network is left in front of the one behind the division.
                assert makers[divided.input[0]].op_type != "Relu" or (
                    len(readers[divided.input[0]]) > 1
                )
    assert kinds == {(1, None), (1, "Div"), (0, "Relu")}


def test_qonnx_infers_the_integer_types_of_every_product(model):
    """As converters do: with any other scale than 1, the types would be float32."""
    pytest.importorskip("qonnx.core.onnx_exec")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    wrapped = ModelWrapper(qonnx.make(model)).transform(InferShapes()).transform(InferDataTypes())
    found = [
        [wrapped.get_tensor_datatype(name).name for name in (*node.input[:2], node.output[0])]
        for node in wrapped.graph.node
        if node.op_type in ("Conv", "MatMul")
    ]
    expected = [
        [f"{'' if d.input_signed else 'U'}INT{d.input_bits}", f"INT{d.weight_bits}", "INT32"]
        for d in (model.layers[node.layer] for node in model.graph.layer_nodes)
        if d.is_integer
    ]
    assert len(expected) == len(model.layers) - 1
    assert found == [["FLOAT32", "INT8", "FLOAT32"], *expected]


def test_qonnx_computes_the_codes_of_the_integer_runtime(tmp_path):
    pytest.importorskip("qonnx.core.onnx_exec")
    path = tmp_path / "m.qonnx.onnx"

    @settings(deadline=None, max_examples=8)
    @given(models(largest_bits=8))
    def check(found):
        model, x = found
        qonnx.write(path, model)
        runner = open_all({"qonnx": path})["qonnx"]
        compared = compare_codes(model, runner, [{"image": x, "label": np.zeros(len(x), int)}])
        assert compared.layers.keys() == model.layers.keys() - {"layer.0"}
        # The last layer reads a sum of floats, whose order is onnxruntime's.
        *inner, last = compared.layers.values()
        assert [count.different for count in inner] == [0] * len(inner)
        assert last.different <= 1
        assert compared.total["off_tie"] < 1e-5
        if not last.different:
            expected = runtime.run(model, x)
            np.testing.assert_allclose(runner.predict(x), expected, rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("signed", [False, True])
def test_ties_are_rounded_as_in_the_integer_runtime(signed, tmp_path):
    """Every odd sum is a rounding tie, or one float beside it on the side of the runtime."""
    pytest.importorskip("qonnx.core.onnx_exec")
    b = Builder(5, (8, 8, 3))
    x = b.conv(b.relu(b.conv(INPUT, 8, 3, bits=8)), 8, 3, bits=3, input_bits=4)
    x = x if signed else b.relu(x)
    x = b.conv(x, 8, 3, bits=4, input_bits=4, signed=signed)
    model = b.model(b.layer("dense", b.op("sum", x, axes=[1, 2]), (4, 8), 8))
    half = np.full(8, model.layers["layer.2"].input_step / 2, np.float32)
    model.layers["layer.1"] = replace(model.layers["layer.1"], scale=half, bias=0 * half)

    path = tmp_path / "m.qonnx.onnx"
    qonnx.write(path, model)
    runner = open_all({"qonnx": path})["qonnx"]
    batch = {"image": b.images, "label": np.zeros(len(b.images), int)}
    assert compare_codes(model, runner, [batch]).total["different"] == 0
    _, codes = runner(b.images)
    (node,) = (n for n in model.graph.layer_nodes if n.layer == "layer.1")
    sums = runtime.accumulate(node, model.layers["layer.1"], codes["layer.1"].astype(np.float32))
    ties = (sums % 2 == 1) & (np.abs(sums) < 16)
    assert ties.sum() > 50
