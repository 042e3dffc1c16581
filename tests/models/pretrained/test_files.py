"""Files of weights from elsewhere, damaged or made to harm: one line each."""

import json
import os
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rfquant_jax.errors import UserError
from rfquant_jax.models.pretrained.files import read_weights


def refused(path):
    tracemalloc.start()
    with pytest.raises(UserError, match=f"`weights`: .*{path.name}: ") as error:
        read_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600 + len(str(path))
    return str(error.value)


def safetensors(tensors, data=bytes(8), length=None):
    text = json.dumps(tensors).encode() if isinstance(tensors, dict) else tensors
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


DAMAGES = {
    "long header": safetensors({"a": tensor()}, length=2**60),
    "truncated": safetensors({"a": tensor()})[:-1],
    "cut in the header": safetensors({"a": tensor()})[:20],
    "surplus": safetensors({"a": tensor()}, bytes(9)),
    "outside": safetensors({"a": tensor(offsets=(0, 2**50))}),
    "overlapping": safetensors({"a": tensor(), "b": tensor()}),
    "backwards": safetensors({"a": tensor(offsets=(8, 0))}),
    "negative": safetensors({"a": tensor(offsets=(-8, 0))}),
    "huge shape": safetensors({"a": tensor(shape=(2**40, 2**40))}),
    "overflowing shape": safetensors({"a": tensor(shape=(2**63, 2**63, 4))}),
    "unknown dtype": safetensors({"a": tensor(dtype="F31\x1b[31m")}),
    "nested": safetensors(b"[" * 100_000),
    "no mapping": safetensors(b"[]"),
    "no UTF-8": safetensors(b"\xff\xfe"),
    "control characters": safetensors({"a\x1b[2J\n": tensor(shape=(3,))}),
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_damaged_safetensors_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert "cannot be read" in refused(path)


def test_narrow_floats_are_read(tmp_path):
    values = np.asarray([1.5, -2.0], ml_dtypes.bfloat16)
    save_file({"a": values}, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(read_weights(tmp_path / "w.safetensors")["a"], values)


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pth"])
def test_a_file_may_be_cut_anywhere(tmp_path, name):
    if name == "w.pth":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / name
    tensors = {"layer.weight": np.arange(40, dtype=np.float32)}
    if name == "w.npz":
        np.savez(path, **tensors)
    elif name == "w.pth":
        import torch

        torch.save({n: torch.asarray(t) for n, t in tensors.items()}, path)
    else:
        save_file(tensors, path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        refused(path)


def test_a_bomb_is_refused_by_its_name(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(2**27))
    assert "claims to hold 134217728 bytes" in refused(path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no /dev/zero")
def test_what_never_ends_is_no_file(tmp_path):
    (tmp_path / "w.npz").symlink_to("/dev/zero")
    assert "there is no such file" in refused(tmp_path / "w.npz")
