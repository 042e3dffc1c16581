"""Random small networks through every format, beside the integer runtime."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from rfquant_jax.export import files
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.verify.compare import compare_codes
from rfquant_jax.export.verify.runners import open_all
from tests.export.random_models import models

FORMATS = ("onnx", "onnx_small", "onnx_fast", "c")


def check(model, images, formats):
    expected = runtime.run(model, images)
    batch = {"image": images, "label": np.zeros(len(images), np.int32)}
    with tempfile.TemporaryDirectory() as folder:
        runners = open_all(files.write_all(Path(folder), "m", model, formats, ("cpu",)))
        for kind in formats:
            logits = runners[kind].predict(images)
            np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3, err_msg=kind)
            if kind == "c":
                np.testing.assert_array_equal(logits, expected)
            if runners[kind].codes is not None:
                compared = compare_codes(model, runners[kind], [batch])
                assert compared.layers.keys() == model.layers.keys() - {"layer.0"}
                assert compared.total["off_tie"] < 1e-3
                most = 0 if kind == "onnx_fast" else 2  # floats rounded at a tie
                assert compared.total["different"] <= most, kind


@settings(deadline=None, max_examples=10)
@given(models())
def test_codes_are_equal_layer_by_layer(found):
    check(*found, FORMATS)


@settings(deadline=None, max_examples=4)
@given(models(largest_bits=8))
def test_with_eight_bits_channels_without_a_solution_are_computed_in_float(found):
    check(*found, ("onnx_fast", "c"))


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(models(largest_bits=8))
def test_many_networks(found):
    check(*found, FORMATS)
