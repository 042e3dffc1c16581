"""The public `export` refuses files that predict otherwise than the evaluation."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rfquant_jax as rfq
from rfquant_jax.export.formats import integer, onnx, stablehlo
from rfquant_jax.export.verify import runners
from tests.api_network import IMAGE_SHAPE, SmallNet, images_and_labels

IMAGES, _ = images_and_labels(50)


@pytest.fixture(scope="module")
def coupled():
    net = nnx.jit(lambda: SmallNet(nnx.Rngs(0)))()
    # Spread the classes, so that a broken layer changes predictions.
    net.classifier.kernel.set_value(jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)) * 3))
    return rfq.couple(net, rfq.plan(net, IMAGE_SHAPE), IMAGES, devices=1)


def broken(model):
    """The model with the signs of one layer's outputs turned."""
    last = model.layers["last"]
    return replace(model, layers=model.layers | {"last": replace(last, scale=-last.scale)})


def test_a_writer_of_another_model_is_found_out(coupled, tmp_path, monkeypatch):
    right = onnx.write
    monkeypatch.setattr(onnx, "write", lambda path, model, **o: right(path, broken(model), **o))
    with pytest.raises(
        rfq.UserError,
        match=r"m\.onnx: is not to be used: onnx and the evaluation disagree on \d+ of 50 images; "
        r"`max_unequal_float` = 0\.005 allows 1$",
    ):
        rfq.export(coupled, "w4a4", tmp_path / "m.onnx")


def test_each_configuration_of_a_bundle_is_verified(coupled, tmp_path, monkeypatch):
    right = integer.write

    def write(path, models):
        right(path, models | {"w3a3": broken(models["w3a3"])})

    monkeypatch.setattr(integer, "write", write)
    with pytest.raises(rfq.UserError, match="the integer runtime and the evaluation disagree"):
        rfq.export(coupled, ["w4a4", "w3a3"], tmp_path / "m.safetensors")
    monkeypatch.undo()
    [file] = rfq.export(coupled, ["w4a4", "w3a3"], tmp_path / "m.safetensors")
    assert file.verified


def test_a_damaged_file_is_found_out(coupled, tmp_path, monkeypatch):
    right = stablehlo.write

    def write(path, *arguments):
        right(path, *arguments)
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(stablehlo, "write", write)
    with pytest.raises(rfq.UserError, match=r"m\.stablehlo: "):
        rfq.export(coupled, "w4a4", tmp_path / "m.stablehlo")


def test_without_its_runtime_a_file_is_not_verified(coupled, tmp_path, monkeypatch):
    monkeypatch.setattr(runners, "_OPTIONAL", {"onnx": (lambda: None, "onnxruntime")})
    [file] = rfq.export(coupled, "w4a4", tmp_path / "m.onnx")
    assert (file.verified, file.note) == (False, "not verified: onnxruntime is not installed")
    assert Path(file).exists()


def test_verification_can_be_left_out(coupled, tmp_path, monkeypatch):
    monkeypatch.setattr("rfquant_jax.export.exported_file.compare_files", None)
    [file] = rfq.export(coupled, "w4a4", tmp_path / "m.onnx", verify=False)
    assert (file.verified, file.note) == (False, "not verified: `verify` is False")


def test_the_running_averages_are_verified_on_the_calibration_images(coupled, tmp_path):
    [file] = rfq.export(coupled, "w4a4", tmp_path / "m.onnx", recalibrate=False)
    assert (file.path, file.note) == (tmp_path / "m.onnx", "verified")


def test_an_artifact_for_other_platforms_is_not_verified_here(coupled, tmp_path):
    [file] = rfq.export(coupled, "w4a4", tmp_path / "m.stablehlo", platforms=("cuda",))
    assert file.note == "not verified: `platforms` lacks cpu, where artifacts are verified"


def test_a_network_without_calibration_images_is_not_verified(coupled, tmp_path, monkeypatch):
    monkeypatch.setattr(coupled.shared, "calibration", ())
    [file] = rfq.export(coupled, "w4a4", tmp_path / "m.onnx", recalibrate=False)
    assert file.note == "not verified: there are no images; `verify` takes some"
    [file] = rfq.export(coupled, "w4a4", tmp_path / "m.onnx", recalibrate=False, verify=IMAGES[:20])
    assert file.verified
