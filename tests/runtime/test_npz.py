"""Archives of arrays that lie about themselves; nothing in them costs more than it holds."""

import io
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from rfquant_jax.runtime.npz import read_npz

GOOD = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "number": np.int64(3),
    "empty": np.zeros((0, 4), np.float32),
    "large": np.arange(3_000_000, dtype=np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read(tmp_path, save):
    save(tmp_path / "w.npz", **GOOD)
    found = read_npz(tmp_path / "w.npz")
    assert found.keys() == GOOD.keys()
    for name, values in GOOD.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def header(shape="(1,)", descr="'<f4'", version=b"\x01\x00"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    width = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text


def archive(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members:
            file.writestr(name, content)


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def of_objects():
    file = io.BytesIO()
    np.save(file, np.asarray([Harmful()], object))
    return file.getvalue()


NUMBERS, NOT_ONE = bytes(4), "a is not an array"
DAMAGES = {
    "objects": (of_objects(), "allow_pickle=False"),
    "pickle": (pickle.dumps(Harmful()), "a is of bytes, not of numbers"),
    "text": (header(descr="'<U5'") + bytes(20), "a is of <U5, not of numbers"),
    "records": (header(descr="[('x', '<f4')]") + NUMBERS, "not of numbers"),
    "huge": (header("(1000000, 1000000)") + NUMBERS, NOT_ONE),
    "overflow": (header("(4294967296, 4294967296, 4)") + NUMBERS, NOT_ONE),
    "negative": (header("(-1, -1)") + NUMBERS, NOT_ONE),
    "long header": (header(version=b"\x02\x00")[:8] + b"\xff" * 4 + NUMBERS, NOT_ONE),
    "code": (header("__import__('os').mkdir('harmed')") + NUMBERS, NOT_ONE),
    "nested": (header("(" * 5000 + ")" * 5000) + NUMBERS, NOT_ONE),
    "short": (header("(2,)") + NUMBERS, NOT_ONE),
    "nothing": (b"", "a is of bytes, not of numbers"),
}


@pytest.mark.parametrize(("content", "said"), DAMAGES.values(), ids=DAMAGES)
def test_an_array_that_is_not_what_it_claims_is_refused(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    archive("w.npz", [("a.npy", content)])
    with pytest.raises(ValueError, match=said):
        read_npz(tmp_path / "w.npz")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("members", "kind", "said"),
    [
        ([("a.npy", header() + NUMBERS), ("read.me", b"")], zipfile.ZIP_STORED, "not an array"),
        ([("a.npy", header() + NUMBERS)], zipfile.ZIP_LZMA, "NumPy never writes"),
        ([("a\x1b.npy", b"")], zipfile.ZIP_BZIP2, r"a\\x1b uses"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path, members, kind, said):
    archive(tmp_path / "w.npz", members, kind)
    with pytest.raises(ValueError, match=said):
        read_npz(tmp_path / "w.npz")


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(tmp_path / "w.npz", [("a.npy", header() + NUMBERS)] * 2)
    with pytest.raises(ValueError, match="a appears twice"):
        read_npz(tmp_path / "w.npz")


def test_a_bomb_is_not_unpacked(tmp_path):
    """100 MB of zeros in 100 kB, and the same with a directory that claims less."""
    count = 25_000_000
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as out:
        out.write(header(f"({count},)"))
        for _ in range(100):
            out.write(bytes(count * 4 // 100))
    whole = path.read_bytes()
    claimed = len(header(f"({count},)")) + count * 4
    modest = whole.replace(claimed.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert modest != whole
    tracemalloc.start()
    for content, said in ((whole, "claims to hold 100000"), (modest, "CRC|not an array")):
        path.write_bytes(content)
        with pytest.raises((ValueError, zipfile.BadZipFile), match=said):
            read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_many_names_for_one_bomb_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr("rfquant_jax.runtime.npz.ALWAYS_ALLOWED", 2000)
    archive(tmp_path / "w.npz", [(f"{i}.npy", header() + NUMBERS) for i in range(30)])
    monkeypatch.setattr("rfquant_jax.runtime.npz.MOST_RATIO", 0)
    with pytest.raises(ValueError, match="claims to hold"):
        read_npz(tmp_path / "w.npz")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_bytes_are_noticed(tmp_path, damage):
    path = tmp_path / "w.npz"
    np.savez(path, a=np.arange(1000, dtype=np.float32))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:2000])
    with pytest.raises(zipfile.BadZipFile):
        read_npz(path)
