"""The plain ONNX file in OpenVINO: the codes of every layer, with float32 asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from rfquant_jax.export.formats import onnx as onnx_model
from rfquant_jax.export.verify.compare import compare_codes
from rfquant_jax.export.verify.run_onnx import read_codes, with_codes
from tests.export.random_models import models

openvino = pytest.importorskip("openvino")


class Runner:
    """Runs a file in OpenVINO; its default on some processors is bfloat16."""

    dtype = np.float32

    def __init__(self, path: Path):
        self._where, content = with_codes(path)
        model = openvino.Core().read_model(content)
        self._compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, images):
        given = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        found = self._compiled(given)
        by_name = {output.any_name: found[output] for output in self._compiled.outputs}
        codes = {layer: read_codes(by_name, entry) for layer, entry in self._where.items()}
        return found[0], codes


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("openvino") / "model.onnx"


def test_the_codes_of_random_networks_are_those_of_the_integer_runtime(path):
    counted = []

    @settings(deadline=None, max_examples=15)
    @given(models())
    def check(found):
        model, images = found
        onnx_model.write(path, model, small=False)
        batch = {"image": images, "label": np.zeros(len(images), np.int32)}
        compared = compare_codes(model, Runner(path), [batch])
        # Only a value at a rounding tie may be rounded to the other side.
        assert compared.total["off_tie"] < 1e-4
        counted.append(compared.total)

    check()
    different, total = (sum(one[name] for one in counted) for name in ("different", "total"))
    assert total > 10_000
    assert different <= 1e-3 * total
