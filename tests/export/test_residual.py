"""Residual additions of 8-bit codes: their constants, and a coupled network in every format."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import rfquant_jax as rfq
from rfquant_jax.errors import UserError
from rfquant_jax.export.format_names import SUFFIXES
from rfquant_jax.export.formats import integer, integer_reader, onnx_fast
from rfquant_jax.export.formats.c_program import memory_of
from rfquant_jax.export.formats.onnx_codes import Codes, bounded
from rfquant_jax.export.formats.onnx_nodes import Nodes
from rfquant_jax.export.formats.onnx_residual import add_codes
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.boundaries import Target
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.ir.graph import Graph, GraphError, Node
from rfquant_jax.export.ir.model import LayerData
from rfquant_jax.export.ir.requantize_sum import sum_multiplier
from rfquant_jax.export.verify.compare import compare_codes
from rfquant_jax.export.verify.runners import missing_runtime, run_onnx
from tests.conftest import images
from tests.quant.test_residual import SHAPE, coupled


def addition(step):
    scale = np.float32([step])
    return LayerData(32, 8, True, float(scale[0]), None, scale, 0 * scale)


def wanted(step, target):
    """The codes of all sums, in the float32 arithmetic of the integer runtime."""
    sums = np.arange(-256, 255).astype(np.float32) * np.float32(step)
    return np.rint(np.clip(sums / np.float32(target.step), target.low, target.high))


steps = st.floats(0.001953125, 8, width=32)
ranges = st.sampled_from([(0, 3), (0, 15), (0, 63), (-2, 1), (-32, 31), (-128, 127), (2, 9)])


@given(steps, steps, ranges)
def test_the_multiplier_gives_every_code_of_every_sum(step, other, ends):
    target = Target(other, *ends)
    multiplier = sum_multiplier(addition(step), target)
    if multiplier is None:
        return
    exact = np.arange(-256, 255) * np.float64(multiplier)
    np.testing.assert_array_equal(np.rint(np.clip(exact, *ends)), wanted(step, target))


def test_nearly_every_pair_of_steps_has_a_multiplier(rng):
    pairs = rng.uniform(0.01, 1, (300, 2)) * np.float32(1)
    found = [sum_multiplier(addition(a), Target(float(b), 0, 15)) for a, b in pairs]
    assert sum(m is None for m in found) < 15


def test_ties_in_every_second_code_have_none():
    """Half a code each: 1 is rounded to 0 and 3 to 2, which no other factor than 0.5 does."""
    assert sum_multiplier(addition(0.5), Target(1.0, 0, 15)) is None
    assert sum_multiplier(addition(0.5), Target(1.0, 0, 1)) is not None


def test_onnxruntime_computes_every_pair_of_codes_like_the_integer_runtime(rng):
    """All 65,536 pairs in QLinearAdd; the codes are stored plus 128."""
    a, b = (x.ravel().astype(np.uint8) for x in np.meshgrid(np.arange(256), np.arange(256)))
    sums = a.astype(int) + b - 256
    for step, target in ((0.11, Target(0.31, 0, 15)), (0.2, Target(0.07, -128, 127))):
        nodes = Nodes(13)
        operands = [Codes(name, 128, 1) for name in "ab"]
        multiplier, zero = sum_multiplier(addition(step), target), -target.low
        y = bounded(nodes, add_codes(nodes, operands, multiplier, target, zero))
        tensors = [helper.make_tensor_value_info(n, TensorProto.UINT8, [1, 1, 65536]) for n in "ab"]
        result = helper.make_tensor_value_info(y.name, TensorProto.UINT8, None)
        graph = helper.make_graph(nodes.nodes, "g", tensors, [result], nodes.initializers)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        session = onnxruntime.InferenceSession(made.SerializeToString())
        [found] = session.run(None, {"a": a[None, None], "b": b[None, None]})
        expected = wanted(step, target)[sums + 256]
        np.testing.assert_array_equal(found.ravel().astype(int) - zero, expected)


@pytest.fixture(scope="module")
def made():
    network = coupled(images(np.random.default_rng(3), 64))
    rfq.set_bits(network, "w4a3")
    return network


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_network_is_verified_in_every_format(made, kind, tmp_path):
    if missing := missing_runtime(kind):
        pytest.skip(f"{missing} is not installed")
    [file] = rfq.export(made, "w4a3", tmp_path / f"m{SUFFIXES[kind]}")
    assert file.note == "verified"


@pytest.fixture(scope="module")
def model(made):
    made.network.eval()
    return fold(made.network, SHAPE).stored()


def test_the_addition_reads_one_byte_for_each_value(model):
    """Two operands of 6 x 6 x 4 codes; the largest is the ReLU of the sum, for the mean."""
    memory = memory_of(model)
    sizes = [b.size for name, b in memory.buffers.items() if name.endswith("read by add")]
    assert sizes == [144, 144]
    assert memory.size == 4 * 144 + 4 * 144


def test_codes_of_both_inputs_are_compared(model, tmp_path):
    onnx_fast.write(tmp_path / "m.onnx", model)
    assert "QLinearAdd" not in {n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node}
    x = images(np.random.default_rng(4), 5)
    batch, run = {"image": x, "label": np.zeros(5, int)}, run_onnx(tmp_path / "m.onnx")
    compared = compare_codes(model, run, [batch])
    assert compared.layers["add"].total == 2 * 5 * 144
    assert compared.total["different"] == 0

    def shifted(images):
        logits, codes = run(images)
        codes["add"][:, 1] += codes["add"][:, 1] < 127
        return logits, codes

    shifted.dtype = np.float32
    assert compare_codes(model, shifted, [batch]).layers["add"].different > 0


def test_the_integer_file_holds_it(model, tmp_path, rng):
    path = tmp_path / "m.safetensors"
    integer.write(path, {"m": model})
    read = integer_reader.read(path).model()
    assert read.equals(model)
    x = images(rng, 2)
    np.testing.assert_array_equal(runtime.run(read, x), runtime.run(model, x))
    nodes = read.graph.to_json()["nodes"]
    assert [n["layer"] for n in nodes if n["op"] == "residual"] == ["add"]


def test_operands_of_different_shapes_are_refused():
    cut = Node("slice", ("image",), "b", {"starts": [0] * 3, "limits": [2] * 3, "strides": [1] * 3})
    node = Node("residual", ("image", "b"), "y", {"layer": "add"})
    with pytest.raises(GraphError, match=r"'y' \(residual\): shapes .* must be equal"):
        _ = Graph((4, 4, 2), (cut, node), "y").shapes


def test_other_bit_widths_in_files_are_refused(model, tmp_path):
    path = tmp_path / "m.safetensors"
    wrong = model.layers | {"add": LayerData(**(vars(model.layers["add"]) | {"input_bits": 4}))}
    integer.write(path, {"m": type(model)(model.graph, wrong, {}, {})})
    with pytest.raises(UserError, match="residual additions must have 8 bits"):
        integer_reader.read(path)
