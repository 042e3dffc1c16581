"""Finds the weights in the mapping that a training program saved.

Programs nest them under different keys, next to the state of an optimizer, and wrap the network, so
that every name has a prefix. A moving average of the weights (EMA) is preferred, as it is what such
programs evaluate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EMA_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
# Wrappers: DataParallel and DDP, torch.compile, Lightning modules, detection networks, JAX's habit.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "ema_model.", "params.")
_COUNTERS = ("n_averaged", "num_batches_tracked")  # of AveragedModel and BatchNorm


def find_weights(content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The tensors in a saved mapping.

    Args:
      content: names to tensors, or keys to such mappings, at any depth.

    Returns:
      the tensors by name, without counters, and the dotted path of keys that leads to them ("" if
      they are at the top).

    Raises:
      LookupError: no mapping of names to tensors is there.
    """
    for key in (*EMA_KEYS, *KEYS):
        inner = content.get(key)
        if isinstance(inner, Mapping) and inner:
            try:
                found, path = find_weights(inner)
            except LookupError:
                continue
            return found, f"{key}.{path}" if path else key
    tensors = {str(name): value for name, value in content.items() if _is_tensor(value)}
    kept = {n: t for n, t in tensors.items() if n.rpartition(".")[2] not in _COUNTERS}
    if not kept:
        raise LookupError("holds no mapping of names to tensors")
    return kept, ""


def unwrapped(names: list[str]) -> Iterator[dict[str, str]]:
    """`{name without prefixes: name}` for every number of prefixes that all names share, from 0.

    A network may have a part that is called like a wrapper, so the caller takes what fits best.
    """
    plain = {name: name for name in names}
    yield plain
    while True:
        shared = next((p for p in PREFIXES if all(n.startswith(p) for n in plain)), None)
        if shared is None or not plain:
            return
        plain = {short.removeprefix(shared): name for short, name in plain.items()}
        yield plain


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")
