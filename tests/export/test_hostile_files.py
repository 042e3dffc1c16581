"""Files of integer models that somebody made up: their checksums are right, all else may lie."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rfquant_jax.export.formats import integer, integer_reader
from tests.export.conftest import refused


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
    metadata["sha256"] = integer.digest(metadata["description"], tensors)
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
    integer_reader.read(path)


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
