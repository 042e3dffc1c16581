"""How benchmarks measure time: in turn, in one run, so that ratios hold on a noisy machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes; it must wait for its results."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them run in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run))
    return {name: float(np.median(values)) for name, values in seconds.items()}


def host() -> dict:
    """The machine, whatever library computes on it."""
    return {"cores": os.cpu_count(), "machine": platform.machine()}


def machine() -> dict:
    """What the numbers were measured on."""
    return host() | {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
