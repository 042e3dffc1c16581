"""Keys that say when stored results may be reused.

`profile_header` lists everything that measured divergences depend on, `snapshot_request` everything
that the result of a search depends on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rfquant_jax.data.transforms import Transform
from rfquant_jax.quant.space import COLUMN_NAMES
from rfquant_jax.runtime.digest import arrays_digest
from rfquant_jax.search.image_sets import ImageSets
from rfquant_jax.search.profile import candidates_of
from rfquant_jax.search.variables import SearchVariable
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run


def profile_header(run: Run, trained: networks.Trained, sets: ImageSets) -> dict:
    """The first line of a profile; profiles with equal headers hold the same divergences.

    The entries of "images" describe the images, so that a log can name what differs. The checksum
    of the pixels also detects changes that no config field shows, such as replaced files or another
    image decoder.
    """
    config = run.config
    # Absent from profiles of earlier releases.
    held_out = {"val_fraction": config.data.val_fraction} if config.data.val_fraction else {}
    header = {
        "checkpoint": trained.origin.rpartition("sha256:")[2],
        "images": {
            "data": config.data.name,
            **held_out,
            "version": run.data.training_version,
            "seed": config.seed,
            "split_seed": config.data.split_seed,
            "search_fraction": config.data.search_fraction,
            "confirm_fraction": config.search.confirm_fraction,
            "views": config.search.views,
            "limit": config.search.images,
            "first_view": _fields(run.pipeline.plain),
            "other_views": _fields(run.pipeline.augmented),
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "batches": sets.each,
            "batch_size": len(sets[0]["label"]),
            "sha256": _checksum(sets),
        },
        "precision": jnp.dtype(run.compute_type).name,
        **candidates_of(run.plan.space),
        "layers": list(run.plan.space.names),
    }
    return json.loads(json.dumps(header))  # lists, as in a stored header


def snapshot_request(run: Run, trained: networks.Trained) -> dict:
    """Everything that the result of a search depends on, except the measured divergences."""
    request = {
        "checkpoint": trained.origin,
        "budgets": [budget.text for budget in run.budgets],
        "profile": run.config.search.profile,
        "evaluations": run.config.search.evaluations,
        "seed": run.config.seed,
        # The remaining choices, after pins, groups, limits and frozen bit-widths.
        "variables": [_variable(run, v) for v in run.search_space.variables],
    }
    if run.latencies is not None:
        costs = {"milliseconds": run.latencies.milliseconds, "fixed": run.latencies.fixed}
        request["latencies"] = arrays_digest({k: np.asarray(v) for k, v in costs.items()})
    return request


def _variable(run: Run, variable: SearchVariable) -> list:
    names = run.search_space.space.names
    # Absent from requests of earlier releases.
    inputs = [[names[i] for i in variable.inputs]] if variable.inputs else []
    layers = [names[i] for i in variable.layers]
    return [COLUMN_NAMES[variable.column], layers, list(variable.allowed), *inputs]


def stored_header(path: Path) -> dict | None:
    """The header of a profile on disk; None if there is no readable header."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def differences(found: Mapping, wanted: Mapping, prefix: str = "") -> list[str]:
    """Names of the entries that differ; names of nested entries are joined with dots."""
    names = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(f"{prefix}{key}")
    return names


def _fields(transform: Transform) -> dict:
    return {"transform": type(transform).__name__} | dataclasses.asdict(transform)


def _checksum(sets: ImageSets) -> str:
    return arrays_digest({str(i): batch["image"] for i, batch in enumerate(sets.batches)})
