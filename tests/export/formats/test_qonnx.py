"""QONNX files, executed where the package qonnx is installed."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from rfquant_jax.export.formats import qonnx
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.verify import run_qonnx
from tests.export.random_models import models


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


def test_qonnx_computes_the_same(tmp_path):
    pytest.importorskip("qonnx.core.onnx_exec")
    path = tmp_path / "m.qonnx.onnx"

    @settings(deadline=None, max_examples=5)
    @given(models(largest_bits=8))
    def check(found):
        model, x = found
        qonnx.write(path, model)
        logits = run_qonnx.load(path)(x)
        np.testing.assert_allclose(logits, runtime.run(model, x), rtol=1e-3, atol=1e-3)

    check()
