"""Named leaves of array trees; digests of arrays and JSON independent of file formats, of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

Signature = dict[str, list]  # name -> [dtype, shape]


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by dotted path.

    Raises:
      ValueError: two leaves have the same name.
    """
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {_name(path): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        raise ValueError("two arrays of a tree have the same name")
    return named


def with_leaves(template: Any, named: Mapping[str, Any]) -> Any:
    """A tree like `template` with these leaves, the inverse of `named_leaves`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: named[_name(path)], template)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def signature(named: Mapping[str, Any]) -> Signature:
    """Dtype and shape of every array."""
    return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in sorted(named.items())}


def arrays_digest(named: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hexadecimal) over every array's name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name in sorted(named):
        array = np.ascontiguousarray(named[name])
        head = json.dumps([name, str(array.dtype), list(named[name].shape)])
        digest.update(head.encode() + b"\n")  # escaped inside JSON
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def json_digest(content: Any) -> str:
    """SHA-256 (hexadecimal) over JSON content, independent of key order and layout."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def path_digest(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, or over the names and contents of all files in a folder."""
    if not path.is_dir():
        return _file_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return json_digest([[file.relative_to(path).as_posix(), _file_digest(file)] for file in files])


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
