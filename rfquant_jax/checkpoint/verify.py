"""Reads and verifies one checkpoint on disk, and renames it if damaged."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rfquant_jax.errors import RunFailure, one_line
from rfquant_jax.runtime.devices import is_first_process
from rfquant_jax.runtime.digest import arrays_digest, json_digest, signature

EMA, STATE, ABOUT = "ema", "state", "about"  # items, each in its own folder of the checkpoint
DIGEST = "sha256"  # keys of the digests of the JSON part and of the items
LARGEST_ABOUT = 64 * 2**20  # bytes; a history of thousands of events takes a few hundred KiB
ASIDE = "damaged"


class Damaged(Exception):  # noqa: N818 - a finding, which ends nothing where there is another one
    """A checkpoint differs from what was saved; the text describes the damage briefly."""


def steps(directory: Path) -> list[int]:
    """The steps with a folder, newest first."""
    if not directory.is_dir():
        return []
    names = [f.name for f in directory.iterdir() if f.name.isdecimal() and f.is_dir()]
    return sorted((int(name) for name in names if name == str(int(name))), reverse=True)


def sealed(content: Mapping[str, Any], items: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    """JSON content extended by digests of the arrays and of itself.

    Args:
      items: item -> arrays by name.
    """
    digests = {
        item: {DIGEST: arrays_digest(arrays), "arrays": signature(arrays)}
        for item, arrays in items.items()
    }
    plain = json.loads(json.dumps(dict(content) | {"items": digests}))
    return plain | {DIGEST: json_digest(plain)}


def read_about(folder: Path) -> dict[str, Any]:
    """The verified JSON part of a checkpoint.

    Raises:
      Damaged: it is not what was saved.
    """
    path = folder / ABOUT / "metadata"
    with _damage(ABOUT):
        if path.stat().st_size > LARGEST_ABOUT:
            raise Damaged(f"{ABOUT}: has {path.stat().st_size} bytes")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or DIGEST not in content:
            raise Damaged(f"{ABOUT}: has no checksum")
        digest = content.pop(DIGEST)
        if digest != json_digest(content):
            raise Damaged(f"{ABOUT}: checksum mismatch")
        return content


def read_arrays(folder: Path, item: str, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The verified arrays of an item by name.

    Args:
      about: result of `read_about` for the same folder.

    Raises:
      Damaged: they are not what was saved.
    """
    path, expected = folder / item, about["items"][item]
    handler = ocp.PyTreeCheckpointHandler()
    with _damage(item), closing(handler):
        # The shapes on disk determine memory use, so they are checked before reading.
        found = handler.metadata(path).tree
        if signature(found) != expected["arrays"]:
            raise Damaged(f"{item}: names, shapes or dtypes of its arrays differ")
        if _bytes_of(expected["arrays"]) > _bytes_in(path):
            raise Damaged(f"{item}: fewer bytes than its arrays need")
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in found}
        arrays = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        if arrays_digest(arrays) != expected[DIGEST]:
            raise Damaged(f"{item}: checksum mismatch")
        return arrays


@contextmanager
def _damage(item: str) -> Iterator[None]:
    try:
        yield
    except Damaged:
        raise
    except FileNotFoundError as error:
        raise Damaged(f"{item}: a file is missing") from error
    except Exception as error:  # orbax and tensorstore raise many kinds
        first = (str(error).splitlines() or [""])[0]
        raise Damaged(f"{item}: {one_line(first or type(error).__name__, 120)}") from error


def _bytes_of(arrays: Mapping[str, list]) -> int:
    return sum(math.prod(shape) * jnp.dtype(dtype).itemsize for dtype, shape in arrays.values())


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that it is not overwritten or deleted; returns the new path.

    Raises:
      RunFailure: it cannot be renamed.
    """
    names = (f"{ASIDE}-{folder.name}{n}" for n in ("", *(f"-{i}" for i in range(2, 10**6))))
    path = next(path for name in names if not (path := folder.with_name(name)).exists())
    try:
        on_disk(lambda: folder.rename(path))
    except OSError as error:
        raise RunFailure(
            f"damaged checkpoint {folder} cannot be renamed to {path.name} ({error.strerror})"
        ) from error
    return path


def remove_unfinished(directory: Path) -> None:
    """Removes incomplete checkpoints of a killed run; orbax would use a thread that outlives it."""
    for unfinished in directory.glob("*.orbax-checkpoint-tmp*"):
        on_disk(lambda folder=unfinished: shutil.rmtree(folder))


def on_disk(change: Callable[[], object]) -> None:
    """Runs a change of a shared folder in one process only."""
    if is_first_process():
        change()
