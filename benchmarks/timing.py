"""Interleaved time measurements in one run, so that ratios are robust on a noisy machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call, which must wait for its results."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function; every round runs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run))
    return {name: float(np.median(values)) for name, values in seconds.items()}


def host() -> dict:
    """A description of the machine, independent of libraries."""
    return {"cores": os.cpu_count(), "machine": platform.machine()}


def machine() -> dict:
    """A description of the machine and library versions."""
    return host() | {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


def union(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
