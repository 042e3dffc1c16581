"""Residual additions with a result in floats, run by onnxruntime on every pair of codes."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rfquant_jax.export.formats.onnx_codes import Codes
from rfquant_jax.export.formats.onnx_nodes import Nodes
from rfquant_jax.export.formats.onnx_sums import float_sum, rectified_sum

STEP = np.float32(0.3)


def run(function, zeros, last):
    """The sum of all pairs of stored values: rows upwards, columns downwards."""
    stored = np.arange(256, dtype=np.uint8)
    grid = np.broadcast_to(stored, (256, 256))
    feeds = {"a": grid.T, "b": grid[:, ::-1]}
    # The pairs lie along H and W; two channels, the second with H and W swapped.
    images = {name: np.stack([feeds[name], feeds[name].T])[None] for name in feeds}
    if last:
        images = {name: image.transpose(0, 2, 3, 1) for name, image in images.items()}
    images = {name: np.ascontiguousarray(image) for name, image in images.items()}
    nodes = Nodes(13)
    operands = [Codes(n, zero, 2, last=last) for n, zero in zip("ab", zeros, strict=True)]
    function(nodes, operands, float(STEP), "y")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, list(image.shape))
        for name, image in images.items()
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes.nodes, "g", inputs, [y], nodes.initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run(None, images)[0]


def sums(zeros):
    """Sums of two codes, int64[1, 2, 256, 256]."""
    first, second = np.arange(256) - zeros[0], np.arange(255, -1, -1) - zeros[1]
    total = first[:, None] + second
    return np.stack([total, total.T])[None]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("zeros", [(128, 128), (100, 7)])
def test_a_float_sum_is_exact_before_the_step(zeros, last):
    expected = sums(zeros).astype(np.float32) * STEP
    np.testing.assert_array_equal(run(float_sum, zeros, last), expected)


@pytest.mark.parametrize("last", [False, True])
def test_a_rectified_sum_has_every_value_from_0_to_254(last):
    total = np.maximum(sums((128, 128)), 0)
    assert total.max() == 254
    expected = total.astype(np.float32) * STEP
    np.testing.assert_array_equal(run(rectified_sum, (128, 128), last), expected)
