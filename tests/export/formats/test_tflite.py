"""LiteRT models, where its runtime is installed (tests/requirements-runtimes.txt)."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from rfquant_jax.errors import UserError
from rfquant_jax.export.formats import tflite, tflite_graph
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from rfquant_jax.export.trace.values import UnsupportedNetwork
from rfquant_jax.export.verify.compare import compare_codes
from tests.conftest import IMAGE_SHAPE, images
from tests.export.formats.test_onnx_fast import residual_model
from tests.export.random_models import models
from tests.export.test_formats import BEHIND, BETWEEN
from tests.export.trace.test_capture import Around, WithNorm, coupled_of


@pytest.fixture
def litert():
    pytest.importorskip("ai_edge_litert")


def opened(model):
    from rfquant_jax.export.verify.runners import open_all

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        tflite.write(path, model)
        return open_all({"tflite": path})["tflite"]


@settings(deadline=None, max_examples=15)
@given(models(largest_bits=8))
def check_random(found):
    model, x = found
    runner = opened(model)
    batch = {"image": x, "label": np.zeros(len(x), np.int32)}
    compared = compare_codes(model, runner, [batch])
    assert compared.layers.keys() == model.layers.keys() - {"layer.0"}
    assert compared.total["different"] == 0
    np.testing.assert_allclose(runner.predict(x), runtime.run(model, x), rtol=1e-4, atol=1e-4)


def test_all_codes_of_random_networks_are_equal(litert):
    check_random()


@pytest.mark.parametrize("between", BETWEEN)
def test_every_operation_between_layers(litert, between, rng):
    if between == "gelu":
        pytest.skip("LiteRT has no error function; the next test")
    model = fold(coupled_of(Around(BETWEEN[between]), candidates=(6, 4)), IMAGE_SHAPE).stored()
    x = images(rng, 3)
    expected = runtime.run(model, x)
    np.testing.assert_allclose(opened(model).predict(x), expected, rtol=1e-4, atol=1e-4)


def test_an_operation_that_litert_lacks_is_named(litert):
    model = fold(coupled_of(Around(BETWEEN["gelu"]), candidates=(6, 4)), IMAGE_SHAPE).stored()
    with pytest.raises(UnsupportedNetwork, match=r"no operator for erf; leave out .* tflite"):
        opened(model)


@pytest.mark.parametrize("behind", BEHIND)
def test_every_kind_of_classifier(litert, behind, rng):
    pool, features = BEHIND[behind]
    network = coupled_of(Around(lambda x: x, pool, features), candidates=(6, 4))
    model, x = fold(network, IMAGE_SHAPE).stored(), images(rng, 3)
    expected = runtime.run(model, x)
    np.testing.assert_allclose(opened(model).predict(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", ["late", "shared"])
def test_batch_norms_on_their_own(litert, place, rng):
    model = fold(coupled_of(WithNorm(place), candidates=(6, 4)), IMAGE_SHAPE).stored()
    x = images(rng, 3)
    expected = runtime.run(model, x)
    np.testing.assert_allclose(opened(model).predict(x), expected, rtol=1e-4, atol=1e-4)


def test_equal_parts_are_stored_once(litert):
    """The network has layers with equal channels, so equal zero points, shapes and buffers."""
    model, _ = residual_model()
    content = tflite.make(model)
    schema = tflite_graph.schema()
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    zeros, lengths = set(), set()
    for tensor in tensors:
        held = tensor.Quantization()
        if held is not None and held.ScaleLength() > 1:
            zeros.add(held._tab.Vector(held._tab.Offset(10)))  # where the zero points start
            lengths.add(held.ScaleLength())
            assert held.ZeroPointLength() == held.ScaleLength()
    assert len(zeros) == len(lengths) == 2  # 16 and 32 channels
    held = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content)).buffers[1:]
    assert len({buffer.data.tobytes() for buffer in held}) == len(held)
    names = [tensor.Name() for tensor in tensors if tensor.Name()]
    assert sorted(names) == sorted([b"image", *(name.encode() for name in model.layers)])


def test_without_its_schema_the_format_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    with pytest.raises(UserError, match="the format tflite needs the package ai-edge-litert"):
        tflite_graph.schema()
