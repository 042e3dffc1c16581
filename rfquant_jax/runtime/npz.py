"""Safe reading of untrusted `.npz` files.

NumPy's reader allocates as much memory as the file claims and decompresses without a limit. This
reader checks all claimed sizes against the file before it allocates an array.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from rfquant_jax.errors import one_line

MOST_BYTES = 2**34  # maximum bytes of all arrays of a file
# Maximum compression ratio: weights hardly compress; a higher ratio is a decompression bomb.
MOST_RATIO, ALWAYS_ALLOWED = 100, 2**26
_MOST_HEADER = 2**14  # bytes; NumPy's headers have 128
_CHUNK = 2**20
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_SUFFIX = ".npy"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
      ValueError: not a file of numeric arrays from `np.savez`; a one-line message.
      Exception: exceptions of `zipfile` and NumPy for other damage.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_sizes(members, path.stat().st_size)
        names = [one_line(member.filename.removesuffix(_SUFFIX)) for member in members]
        if len(set(names)) < len(names):
            raise ValueError(f"{max(names, key=names.count)} appears twice")
        return {
            name: _read(archive, member, name) for name, member in zip(names, members, strict=True)
        }


def check_claim(claimed: int, there: int) -> None:
    """Refuses a file or folder of `there` bytes that claims to hold far more.

    Raises:
      ValueError: names both numbers.
    """
    if claimed > min(MOST_BYTES, max(ALWAYS_ALLOWED, MOST_RATIO * there)):
        raise ValueError(f"claims to hold {claimed} bytes in a file of {there}")


def _check_sizes(members: list[zipfile.ZipInfo], there: int) -> None:
    check_claim(sum(member.file_size for member in members), there)
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{one_line(member.filename)} uses a method that NumPy never writes")
        if not member.filename.endswith(_SUFFIX):
            raise ValueError(f"{one_line(member.filename)} is not an array")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(member) as stream:
        start = stream.read(_MOST_HEADER)
        header = io.BytesIO(start)
        try:
            shape, by_columns, dtype = _HEADERS[npy.read_magic(header)](header)
        except Exception as error:  # the literal parser can raise almost anything
            raise ValueError(f"{name} has no NumPy header") from error
        if dtype.hasobject or dtype.kind not in "biufc":
            raise ValueError(f"{name} is of {one_line(dtype, 60)}, not of numbers")
        there = member.file_size - header.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != there:
            raise ValueError(f"{name} claims to be {dtype}{list(shape)} but holds {there} bytes")
        content = _fill(np.empty(there, np.uint8), start[header.tell() :], stream)
    return content.view(dtype).reshape(shape, order="F" if by_columns else "C")


def _fill(content: np.ndarray, first: bytes, stream: IO[bytes]) -> np.ndarray:
    done, chunk = 0, first
    while chunk:
        content[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
        chunk = stream.read(_CHUNK)  # verifies the checksum at the end
    if done != len(content):
        raise ValueError(f"ends after {done} of {len(content)} bytes")
    return content
