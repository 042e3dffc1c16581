"""Files of integer models: whole, damaged, foreign."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rfquant_jax.errors import RunFailure, UserError
from rfquant_jax.export import files
from rfquant_jax.export.formats import integer, integer_reader
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.packing import packed_size
from rfquant_jax.export.verify.runners import open_all
from tests.conftest import images
from tests.export.conftest import refused

ROOT = Path(__file__).resolve().parents[2]


def test_a_bundle_holds_every_configuration_and_each_kernel_once(models, tmp_path, rng):
    path = tmp_path / "bundle.safetensors"
    integer.write(path, models)
    bundle = integer_reader.read(path)
    x = images(rng, 3)
    for name, model in models.items():
        assert bundle.model(name).equals(model.stored())
        assert bundle.model(name).about == {"n": name}
        found = runtime.run(bundle.model(name), x)
        np.testing.assert_array_equal(found, runtime.run(model.stored(), x))
    sizes = {k: v.nbytes for k, v in load_file(path).items() if k.startswith("kernel/")}
    # By hand: stem 72, conv 216, projection 24, expand 48, depthwise 72, fc 40 weights.
    assert sizes == {
        "kernel/stem/8": 72,
        "kernel/conv/2": 54,
        "kernel/conv/6": 162,
        "kernel/projection.0/4": 12,
        "kernel/expand/3": 18,
        "kernel/expand/5": 30,
        "kernel/depthwise/3": 27,
        "kernel/depthwise/6": 54,
        "kernel/fc/8": 40,
    }
    for asked, said in (
        (None, "needs the name of a configuration"),
        ("w4a4", "has no configuration 'w4a4'"),
    ):
        with pytest.raises(UserError, match=f"{said}; there are low, high"):
            bundle.model(asked)


def test_one_configuration_needs_no_name_and_its_kernels_no_more_bytes(models, path):
    model = integer_reader.read(path).model()
    assert model.equals(models["low"].stored())
    tensors = load_file(path)
    kernels = {name: t for name, t in tensors.items() if name.startswith("kernel/")}
    assert sum(t.nbytes for t in kernels.values()) == models["low"].kernel_bytes
    for name, tensor in kernels.items():
        layer = models["low"].layers[name.split("/")[1]]
        assert tensor.nbytes == packed_size(layer.kernel.size, layer.weight_bits)


def test_configurations_of_different_networks_do_not_share_a_file(models, tmp_path):
    low, high = models.values()
    nodes = (*low.graph.nodes, replace(low.graph.nodes[-3], output="more"))
    other = replace(low, graph=replace(low.graph, nodes=nodes))
    kernel = high.layers["projection.0"].kernel.copy()
    kernel[0, 0, 0, 0] ^= 1
    layers = high.layers | {"projection.0": replace(high.layers["projection.0"], kernel=kernel)}
    for stranger in (other, replace(high, layers=layers)):
        with pytest.raises(UserError, match="of another network"):
            integer.write(tmp_path / "b.safetensors", {"low": low, "stranger": stranger})
    assert not (tmp_path / "b.safetensors").exists()


def test_every_single_changed_byte_is_noticed(path):
    """In the data always; in the header, unless it is nothing but a space."""
    whole = path.read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, data, 97), *range(data, len(whole), 11), len(whole) - 1]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 0x04
        if bytes(whole[place : place + 1]) == b" ":
            continue
        path.write_bytes(changed)
        refused(path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_truncated_files_are_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    assert "is damaged or not a safetensors file" in refused(path)


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("it was executed",))


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 not a model",
        pickle.dumps(Bomb()),
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (70000).to_bytes(8, "little") + b"[" * 70000,
    ],
    ids=["zip", "pickle", "huge header", "list", "deep"],
)
def test_foreign_files_are_refused(path, content):
    path.write_bytes(content)
    assert "is damaged or not a safetensors file" in refused(path)


def test_files_that_are_not_there_or_of_others(path, tmp_path):
    assert "cannot be read" in refused(tmp_path / "missing.safetensors")
    assert "cannot be read" in refused(tmp_path)
    save_file({"weight": np.zeros(3, np.float32)}, path)
    assert "is not an integer model of this project" in refused(path)


@pytest.mark.parametrize("kind", ["integer", "onnx", "onnx_small", "onnx_fast", "stablehlo"])
def test_what_a_format_cannot_write_or_run_is_said_in_one_line(kind, model, tmp_path, monkeypatch):
    path = tmp_path / f"a{files.SUFFIXES[kind]}"
    paths = files.write_all(tmp_path, "a", model, (kind,), ("cpu",))
    assert path in paths.values()
    path.write_bytes(b"nonsense" * 9)
    with pytest.raises((UserError, RunFailure)) as error:
        open_all({kind: path})
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    path.unlink()
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(RunFailure, match=f"{path}: cannot be written as {kind} \\(") as error:
        files.write_all(tmp_path, "a", model, (kind,), ("cpu",))
    assert "\n" not in str(error.value)


def test_what_a_runtime_raises_on_images_is_said_in_one_line(model, tmp_path):
    paths = files.write_all(tmp_path, "a", model, ("onnx",), ("cpu",))
    with pytest.raises(RunFailure, match=r"a.onnx: cannot be run as onnx \(") as error:
        open_all(paths)["onnx"].predict(np.zeros((1, 5, 5, 3), np.float32))
    assert "\n" not in str(error.value)


def test_a_file_in_the_place_of_the_folder_is_said_in_one_line(model, tmp_path):
    (tmp_path / "export").touch()
    with pytest.raises(RunFailure, match=r"export: cannot be written as a folder \(File exists\)"):
        files.write_all(tmp_path / "export", "a", model, (), ("cpu",))


def test_the_example_in_the_docs_runs_a_file(models, tmp_path, rng):
    text = (ROOT / "docs" / "integer_format.md").read_text()
    program = re.search(r"<!-- python integer -->\s+```python\n(.*?)```", text, re.DOTALL)[1]
    imports = set(re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE))
    assert imports == {"json", "numpy"}
    assert len(program[program.index("def run") :].splitlines()) == 30  # as the README says
    assert "in 30 lines of NumPy" in (ROOT / "README.md").read_text()
    names = {}
    exec(program, names)
    path = tmp_path / "bundle.safetensors"
    integer.write(path, models)
    x = images(rng, 3)
    for name, model in models.items():
        expected = runtime.run(model.stored(), x)
        np.testing.assert_allclose(names["run"](path, name, x), expected, rtol=1e-5, atol=1e-5)
