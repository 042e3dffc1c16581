"""Reads the state of an NNX network from a folder that orbax wrote.

Its files hold arrays and JSON; nothing in them is executed. Shapes are compared with the size of
the folder before an array is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rfquant_jax.errors import listed
from rfquant_jax.models.pretrained.state_dict import EMA_KEYS, KEYS
from rfquant_jax.runtime.late_callbacks import restore_late_callbacks, silence_late_callbacks
from rfquant_jax.runtime.npz import check_claim

MARK = "_METADATA"  # the file that describes the arrays of a checkpoint
_STATISTICS = ("batch_stats", "stats")
# What a training loop saves next to the weights.
_BESIDE = ("opt_state", "opt", "optimizer", "tx", "step", "epoch", "rng", "rngs", "key", "metrics")
_KNOWN = {*EMA_KEYS, *KEYS, *_STATISTICS, *_BESIDE}


def read_orbax(path: Path) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """The arrays of a checkpoint by dotted path.

    Args:
      path: the folder that `StandardCheckpointer.save` wrote, or a step of a `CheckpointManager`
        with one item.

    Returns:
      the arrays; the key that holds the weights in a training state, or ""; all keys beside it.

    Raises:
      LookupError: the folder is no checkpoint of arrays.
      ValueError: it claims to hold more than it can.
      Exception: exceptions of orbax and tensorstore for other damage.
    """
    tree = _restored(_item(path))
    inside, keys = "", sorted(tree)
    if (key := _key(tree)) is not None:
        tree, inside = _with_statistics(tree, key), key
    arrays = {".".join(names): array for names, array in _leaves(tree)}
    if not arrays:
        raise LookupError("holds no arrays")
    return arrays, inside, keys


def _item(path: Path) -> Path:
    """The folder with the arrays."""
    if (path / MARK).is_file():
        return path
    inside = sorted(p for p in path.iterdir() if (p / MARK).is_file())
    steps = sorted(p.name for p in path.iterdir() if p.name.isdecimal() and p.is_dir())
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise LookupError(f"holds several states: name the folder of one, {_shown(inside)}")
    if steps:
        raise LookupError(f"holds checkpoints by step: name the folder of one, as {steps[-1]}")
    raise LookupError(f"is a folder, but no checkpoint of orbax, which has a file {MARK}")


def _shown(paths: list[Path]) -> str:
    return listed([path.name for path in paths])


def _restored(folder: Path) -> dict[str, Any]:
    """The arrays as a tree of dictionaries; other leaves, such as keys of JAX, are left out."""
    import orbax.checkpoint as ocp

    silence_late_callbacks()
    handler = ocp.PyTreeCheckpointHandler()
    with closing(handler), _damage():
        described = handler.metadata(folder).tree
        claimed = {path: _bytes(leaf) for path, leaf in _leaves(described)}
        there = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        check_claim(sum(filter(None, claimed.values())), there)
        how = ocp.RestoreArgs(restore_type=np.ndarray)
        wanted = jax.tree.map(lambda _: how, described)
        found = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=wanted))
    restore_late_callbacks()
    return _tree({p: np.asarray(a) for p, a in _leaves(found) if claimed[p] is not None})


@contextmanager
def _damage() -> Iterator[None]:
    """Shortens the messages of tensorstore, which hold all its settings, to their kind."""
    try:
        yield
    except Exception as error:
        kind = re.match(r"[A-Z_]+(?=: )", str(error))
        if kind is None:
            raise
        raise ValueError(f"an array is damaged or missing: {kind[0]}") from error


def _bytes(leaf: Any) -> int | None:
    """The size of an array by its description; None: it is no array of numbers."""
    try:
        return math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
    except (AttributeError, TypeError):
        return None


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths and leaves of nested mappings and lists."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for name, inner in tree.items():
        yield from _leaves(inner, (*path, str(name)))


def _tree(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse of `_leaves`."""
    tree: dict[str, Any] = {}
    for (*parents, name), leaf in leaves.items():
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = leaf
    return tree


def _key(tree: Mapping[str, Any]) -> str | None:
    """The key of the weights if this is the state of a training loop, not that of a network."""
    beside = [name for name, inner in tree.items() if isinstance(inner, Mapping)]
    if len(tree) < 2 or not set(beside) <= _KNOWN:
        return None
    return next((key for key in (*EMA_KEYS, *KEYS) if key in beside), None)


def _with_statistics(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The state under a key, with BatchNorm statistics that were saved beside it."""
    parts = [tree[key], *(tree[name] for name in _STATISTICS if name in tree)]
    return _tree({path: leaf for part in parts for path, leaf in _leaves(part)})
