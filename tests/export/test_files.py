"""Files of integer models: whole, damaged, foreign."""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rfquant_jax.errors import UserError
from rfquant_jax.export import files, format, reading, runtime
from rfquant_jax.export.fold import fold
from rfquant_jax.export.packing import packed_size
from tests.conftest import IMAGE_SHAPE, images
from tests.export.conftest import at

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(scrambled, space):
    """Two configurations that share some kernels: both have the second layer at 4 bits."""
    rows = {
        "low": [[2, 3], [4, 2], [3, 4], [3, 3]],
        "high": [[6, 6], [4, 5], [5, 4], [6, 5]],
    }
    return {n: fold(at(scrambled, np.asarray(r)), IMAGE_SHAPE, {"n": n}) for n, r in rows.items()}


@pytest.fixture
def path(models, tmp_path):
    path = tmp_path / "model.safetensors"
    format.write(path, {"low": models["low"]})
    return path


def refused(path):
    with pytest.raises(UserError) as error:
        reading.read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 600
    return text


def test_a_bundle_holds_every_configuration_and_each_kernel_once(models, tmp_path, rng):
    path = tmp_path / "bundle.safetensors"
    format.write(path, models)
    bundle = reading.read(path)
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
    for asked, said in ((None, "must be told which"), ("w4a4", "has no configuration 'w4a4'")):
        with pytest.raises(UserError, match=f"{said}; there are low, high"):
            bundle.model(asked)


def test_one_configuration_needs_no_name_and_its_kernels_no_more_bytes(models, path):
    model = reading.read(path).model()
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
            format.write(tmp_path / "b.safetensors", {"low": low, "stranger": stranger})
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
    assert "is damaged or no safetensors file" in refused(path)


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
    assert "is damaged or no safetensors file" in refused(path)


def test_files_that_are_not_there_or_of_others(path, tmp_path):
    assert "cannot be read" in refused(tmp_path / "missing.safetensors")
    assert "cannot be read" in refused(tmp_path)
    save_file({"weight": np.zeros(3, np.float32)}, path)
    assert "is no integer model of this project" in refused(path)


def rewrite(path, change):
    """Changes what a file says and gives it a new checksum: damage that no checksum notices."""
    tensors = load_file(path)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    metadata = header["__metadata__"]
    content = json.loads(metadata["description"])
    change(content, tensors, metadata)
    if metadata["description"] is not None:
        metadata["description"] = json.dumps(content)
    else:
        metadata["description"] = "{" * 100000
    metadata["sha256"] = format.digest(metadata["description"], tensors)
    save_file(tensors, path, metadata)


def layers_of(content):
    return content["configurations"]["low"]["layers"]


def bounded_by(content, number):
    (node,) = [n for n in content["graph"]["nodes"] if n["output"] == "x3"]
    assert node["inputs"] == ["x2", 0.0]
    node["inputs"][1] = number


def append(content, **node):
    """A node behind the first ReLU, [6, 6, 4], that nothing takes."""
    nodes = content["graph"]["nodes"]
    nodes.insert(2, {"inputs": ["x3"], "output": "more"} | node)


def floating(content, tensors, value):
    """The classifier with a kernel of floats, one of which is this."""
    layers_of(content)["fc"].update(weight_bits=32)
    tensors["kernel/fc/32"] = np.full((5, 8), value, np.float32)
    del tensors["kernel/fc/8"]


def with_constant(content, tensors, value):
    nodes = content["graph"]["nodes"]
    nodes.insert(2, {"op": "constant", "inputs": [], "output": "shift", "shape": [4]})
    tensors["constant/shift"] = np.asarray([0, 1, value, 2], np.float32)


def with_affine(content, tensors, **bits):
    append(content, op="affine", layer="norm", channels=4)
    entry = {"weight_bits": 32, "input_bits": 32, "input_signed": True, "input_step": 1.0}
    layers_of(content)["norm"] = entry | bits
    for part in ("scale", "bias"):
        tensors[f"low/norm/{part}"] = np.ones(4, np.float32)


def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda c, t, m: floating(c, t, 1.0),
        lambda c, t, m: with_constant(c, t, 1.0),
        lambda c, t, m: with_affine(c, t),
        lambda c, t, m: bounded_by(c, 1.5),
        lambda c, t, m: append(c, op="reshape", shape=[1, 1, 6, 6, 4]),
    ],
)
def test_what_the_hostile_files_below_change_is_all_that_is_wrong_with_them(path, change):
    rewrite(path, change)
    reading.read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, t, m: m.update(version="2"), "has version '2' of the format"),
        (lambda c, t, m: m.update(description=None), "its description is not JSON"),
        (lambda c, t, m: c.pop("graph"), "there is no graph with nodes"),
        (lambda c, t, m: c.update(configurations={}), "names no configuration"),
        (lambda c, t, m: c.update(configurations=3), "names no configuration"),
        (lambda c, t, m: c["configurations"].update(low=3), "does not have the graph's layers"),
        (lambda c, t, m: layers_of(c).pop("conv"), "does not have the graph's layers"),
        (lambda c, t, m: layers_of(c).update(conv=[]), "must have weight_bits, input_bits"),
        (lambda c, t, m: layers_of(c)["conv"].update(weight_bits=7), "lacks the tensor"),
        (lambda c, t, m: layers_of(c)["conv"].update(weight_bits=9), "no bit-width can be 9"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_bits="4"), "no bit-width can be '4'"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_step=-1.0), "is not positive"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_step=1e999), "is not positive"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_step=10**400), "is not described"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_signed=1), "is not described"),
        (lambda c, t, m: t.update(more=np.zeros(1, np.float32)), "that nothing uses: more"),
        (lambda c, t, m: t.update(more=np.zeros(1, np.int64)), "neither U8 nor F32"),
        (
            lambda c, t, m: t.update({"kernel/conv/2": t["kernel/conv/2"][:-1]}),
            "'kernel/conv/2' is uint8[53], not uint8[54]",
        ),
        (
            lambda c, t, m: t.update({"low/conv/bias": t["low/conv/bias"].view(np.uint8)}),
            "'low/conv/bias' is uint8[24], not float32[6]",
        ),
        (
            lambda c, t, m: t["low/conv/scale"].__setitem__(0, np.nan),
            "layer conv: its scale or bias is not finite",
        ),
        (
            lambda c, t, m: c["graph"]["nodes"][2].update(kernel=[6, 3, 3, 5]),
            "does not take 4 channels",
        ),
        (lambda c, t, m: c["graph"].update(output=["x1"]), "its output ['x1'] must be a name"),
        (lambda c, t, m: c["graph"].update(output={}), "its output {} must be a name"),
        (lambda c, t, m: c["graph"].pop("output"), "its output None must be a name"),
        (lambda c, t, m: bounded_by(c, 10**400), "must be a finite number, in float32"),
        (lambda c, t, m: bounded_by(c, 1e300), "1e+300 must be a finite number, in float32"),
        (lambda c, t, m: bounded_by(c, -1e39), "-1e+39 must be a finite number, in float32"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_step=1e300), "or none of float32"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_step=1e-320), "or none of float32"),
        (lambda c, t, m: layers_of(c)["conv"].update(input_step=0.0), "is not positive"),
        (lambda c, t, m: layers_of(c)["stem"].update(input_step=2.0), "step size must be 1"),
        (
            lambda c, t, m: floating(c, t, np.nan),
            "layer fc: its kernel is not finite",
        ),
        (
            lambda c, t, m: floating(c, t, np.inf),
            "layer fc: its kernel is not finite",
        ),
        (lambda c, t, m: with_constant(c, t, np.nan), "constant shift is not finite"),
        (
            lambda c, t, m: c["graph"]["nodes"][2].update(
                padding=[[2**30, 0], [2**30, 0]], strides=[2**30, 2**30]
            ),
            "which is too large",
        ),
        (
            lambda c, t, m: append(
                c,
                op="max_pool",
                window=[2**30, 2**30],
                strides=[1, 1],
                padding=[[2**30, 0], [2**30, 0]],
            ),
            "is too large",
        ),
        (
            lambda c, t, m: append(
                c,
                op="sum_pool",
                window=[2**10, 2**10],
                strides=[1, 1],
                padding=[[2**10, 0], [2**10, 0]],
            ),
            "a window (1024, 1024) is too large",
        ),
        (
            lambda c, t, m: append(c, op="reshape", shape=[1, 1, 1, 6, 6, 4]),
            "makes 6 axes; there may be 5",
        ),
        (lambda c, t, m: with_affine(c, t, weight_bits=4), "affine maps must have 32 bits"),
        (lambda c, t, m: with_affine(c, t, input_bits=4), "affine maps must have 32 bits"),
        (
            lambda c, t, m: t.update({"a\nb": np.zeros(1, np.float32)}),
            "that nothing uses: a\\nb",
        ),
        (
            lambda c, t, m: layers_of(c)["conv"].update(input_bits="a\nb" * 1000),
            "no bit-width can be",
        ),
        (lambda c, t, m: c["configurations"].update({"a\nb": 3}), "configuration 'a\\nb' does"),
        (lambda c, t, m: c["graph"]["nodes"].__setitem__(2, "x" * 10**6), "is no mapping"),
        (lambda c, t, m: c["graph"]["nodes"].__setitem__(2, nested(900)), "is no mapping"),
        (lambda c, t, m: append(c, op="sum", axes="x" * 10**6), "must be whole numbers"),
        (lambda c, t, m: append(c, op="pad", padding="x" * 10**6, value=0), "must be 3 pairs"),
    ],
)
def test_whatever_the_checksum_says_nothing_is_believed(path, change, said):
    rewrite(path, change)
    assert said in refused(path)


@pytest.mark.parametrize("kind", ["integer", "onnx", "onnx_small", "stablehlo"])
def test_what_a_format_cannot_write_or_run_is_said_in_one_line(kind, model, tmp_path, monkeypatch):
    path = tmp_path / f"a{files.SUFFIXES[kind]}"
    paths = files.write_all(tmp_path, "a", model, (kind,), ("cpu",))
    assert path in paths.values()
    path.write_bytes(b"nonsense" * 9)
    with pytest.raises(UserError) as error:
        files.open_all({kind: path})
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    path.unlink()
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(UserError, match=f"{path}: cannot be written as {kind} \\(") as error:
        files.write_all(tmp_path, "a", model, (kind,), ("cpu",))
    assert "\n" not in str(error.value)


def test_what_a_runtime_raises_on_images_is_said_in_one_line(model, tmp_path):
    paths = files.write_all(tmp_path, "a", model, ("onnx",), ("cpu",))
    with pytest.raises(UserError, match=r"a.onnx: cannot be run as onnx \(") as error:
        files.open_all(paths)["onnx"](np.zeros((1, 5, 5, 3), np.float32))
    assert "\n" not in str(error.value)


def test_a_file_in_the_place_of_the_folder_is_said_in_one_line(model, tmp_path):
    (tmp_path / "export").touch()
    with pytest.raises(UserError, match=r"export: cannot be written as a folder \(File exists\)"):
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
    format.write(path, models)
    x = images(rng, 3)
    for name, model in models.items():
        expected = runtime.run(model.stored(), x)
        np.testing.assert_allclose(names["run"](path, name, x), expected, rtol=1e-5, atol=1e-5)
