"""Reading of untrusted `.npz` files with `numpy.load`.

`numpy.load` executes nothing with `allow_pickle=False`, but it decompresses without a limit: 100 kB
become 100 MB. So the sizes that the archive claims are compared with the size of the file first;
NumPy stops reading a member at its claimed size.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from rfquant_jax.errors import one_line

MOST_BYTES = 2**34  # maximum bytes of all arrays of a file
# Maximum compression ratio: weights hardly compress; a higher ratio is a decompression bomb.
MOST_RATIO, ALWAYS_ALLOWED = 100, 2**26
_SUFFIX = ".npy"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
      ValueError: not a file of numeric arrays from `np.savez`; a one-line message.
      zipfile.BadZipFile: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        _check_members(archive.infolist(), path.stat().st_size)
    with np.load(path, allow_pickle=False) as arrays:
        return {one_line(name): _numbers(arrays, name) for name in arrays.files}


def check_claim(claimed: int, there: int) -> None:
    """Refuses a file or folder of `there` bytes that claims to hold far more.

    Raises:
      ValueError: names both numbers.
    """
    if claimed > min(MOST_BYTES, max(ALWAYS_ALLOWED, MOST_RATIO * there)):
        raise ValueError(f"claims to hold {claimed} bytes in a file of {there}")


def _check_members(members: list[zipfile.ZipInfo], there: int) -> None:
    check_claim(sum(member.file_size for member in members), there)
    names = [one_line(member.filename.removesuffix(_SUFFIX)) for member in members]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)} appears twice")
    for member, name in zip(members, names, strict=True):
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} uses a method that NumPy never writes")
        if not member.filename.endswith(_SUFFIX):
            raise ValueError(f"{name} is not an array")


def _numbers(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        found = arrays[name]
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # NumPy's parser of headers raises almost anything
        raise ValueError(f"{one_line(name)} is not an array ({one_line(error, 100)})") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biufc":
        kind = getattr(found, "dtype", "bytes")
        raise ValueError(f"{one_line(name)} is of {one_line(kind, 60)}, not of numbers")
    return found
