"""Attributes of operations that take one value, from the parameters of JAX primitives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

RENAMED = {
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_window_sum": "sum_pool",
    "reduce_window_max": "max_pool",
    "gather": "take",
}


def attributes_of(name: str, params: Mapping, operands: Sequence) -> dict | None:
    """The attributes of an operation on one value, or None if it is not supported."""
    if name in ("reduce_sum", "reduce_max") and 0 not in params["axes"]:
        return {"axes": [int(axis) for axis in params["axes"]]}
    if name in ("reduce_window_sum", "reduce_window_max"):
        return _pool(params)
    if name == "pad":
        return _pad(params, operands[1])
    if name == "slice":
        rows = {"starts": "start_indices", "limits": "limit_indices", "strides": "strides"}
        found = {ours: params[theirs] for ours, theirs in rows.items()}
        found["strides"] = found["strides"] or (1,) * len(found["starts"])
        whole = (found["starts"][0], found["limits"][0], found["strides"][0])
        if whole == (0, operands[0].shape[0], 1):
            return {key: [int(v) for v in values[1:]] for key, values in found.items()}
    return _take(params, operands) if name == "gather" else None


def _take(params: Mapping, operands: Sequence) -> dict | None:
    """A `gather` of whole entries along one axis, at constant indices."""
    numbers, (x, indices) = params["dimension_numbers"], operands
    (axis, *others) = numbers.start_index_map
    entries = [size if a != axis else 1 for a, size in enumerate(x.shape)]
    whole = tuple(params["slice_sizes"]) == tuple(entries) and not numbers.operand_batching_dims
    along = not others and tuple(numbers.collapsed_slice_dims) == (axis,) and axis > 0
    kept = tuple(a for a in range(len(x.shape)) if a != axis)
    if not (whole and along and tuple(numbers.offset_dims) == kept):
        return None
    if not isinstance(indices, np.ndarray) or indices.ndim != 2:
        return None
    found = indices[:, 0]
    if found.min() < 0 or found.max() >= x.shape[axis]:
        return None
    return {"axis": int(axis), "indices": [int(i) for i in found]}


def _pool(params: Mapping) -> dict | None:
    dilations = {*params["base_dilation"], *params["window_dilation"]}
    window, strides, padding = (
        tuple(params[name]) for name in ("window_dimensions", "window_strides", "padding")
    )
    images = len(window) == 4 and dilations == {1}
    outer = [(window[i], strides[i], tuple(padding[i])) for i in (0, -1)]
    if not images or outer != [(1, 1, (0, 0))] * 2:
        return None
    return {
        "window": [int(v) for v in window[1:3]],
        "strides": [int(v) for v in strides[1:3]],
        "padding": [[int(low), int(high)] for low, high in padding[1:3]],
    }


def _pad(params: Mapping, value: object) -> dict | None:
    config = [tuple(map(int, entry)) for entry in params["padding_config"]]
    grows = all(low >= 0 and high >= 0 and inner == 0 for low, high, inner in config)
    if not isinstance(value, np.ndarray) or not grows or config[0] != (0, 0, 0):
        return None
    return {"padding": [[low, high] for low, high, _ in config[1:]], "value": float(value)}
