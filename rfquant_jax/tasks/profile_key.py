"""Keys that say when stored results may be reused.

`profile_header` lists everything that measured divergences depend on, `confirmed_header` everything
that confirmed accuracies depend on, and `snapshot_request` everything that the result of a search
depends on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.data.transforms import Transform
from rfquant_jax.quant.space import COLUMN_NAMES
from rfquant_jax.runtime.digest import arrays_digest
from rfquant_jax.search.image_sets import ImageSets
from rfquant_jax.search.profile import candidates_of
from rfquant_jax.search.variables import SearchVariable
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.run import Run


def profile_header(run: Run, origin: str, sets: ImageSets) -> dict:
    """The first line of a profile; profiles with equal headers hold the same divergences.

    The entries of "images" describe the images, so that a log can name what differs. The checksum
    of the pixels also detects changes that no config field shows, such as replaced files or another
    image decoder.
    """
    search = run.config.search
    measured = {
        "views": search.views,
        "limit": search.images,
        "batches": sets.each,
        "batch_size": len(sets[0]["label"]),
        "sha256": _checksum(sets),
    }
    return _header(run, origin, _held_out(run) | measured)


def confirmed_header(run: Run, origin: str, images: int) -> dict:
    """The first line of the confirmed accuracies; equal headers mean equal accuracies.

    Args:
      images: number of confirmation images.
    """
    evaluation = run.config.evaluate
    recalibration = {
        "batch_size": evaluation.batch_size,
        "images": evaluation.recalibration_images,
        "augment": evaluation.augment,
    }
    header = _header(run, origin, _held_out(run) | {"number": images})
    return header | {"recalibration": recalibration, "content": "outcomes"}


def _header(run: Run, origin: str, images: dict) -> dict:
    header = {
        "checkpoint": origin.rpartition("sha256:")[2],
        "images": images,
        "precision": jnp.dtype(run.compute_type).name,
        **candidates_of(run.plan.space),
        "layers": list(run.plan.space.names),
    }
    return json.loads(json.dumps(header))  # lists, as in a stored header


def _held_out(run: Run) -> dict:
    """What the held-out images and their views depend on."""
    data = run.config.data
    # Absent from profiles of earlier releases.
    fraction = {"val_fraction": data.val_fraction} if data.val_fraction else {}
    return {
        "data": data.name,
        **fraction,
        "version": run.data.training_version,
        "seed": run.config.seed,
        "split_seed": data.split_seed,
        "search_fraction": data.search_fraction,
        "confirm_fraction": run.config.search.confirm_fraction,
        "first_view": _fields(run.pipeline.plain),
        "other_views": _fields(run.pipeline.augmented),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def snapshot_request(config: ConfigDict, origin: str, problem: SearchProblem) -> dict:
    """Everything that the result of a search depends on, except the measured divergences.

    Args:
      origin: the checkpoint of the network.
    """
    space = problem.search_space.space
    request = {
        "checkpoint": origin,
        "budgets": [budget.text for budget in problem.budgets],
        "profile": config.search.profile,
        "evaluations": config.search.evaluations,
        "seed": config.seed,
        # The remaining choices, after pins, groups, limits and frozen bit-widths.
        "variables": [_variable(space.names, v) for v in problem.search_space.variables],
    }
    if (table := problem.latencies) is not None:
        costs = {"milliseconds": table.milliseconds, "fixed": table.fixed}
        request["latencies"] = arrays_digest({k: np.asarray(v) for k, v in costs.items()})
    return request


def _variable(names: Sequence[str], variable: SearchVariable) -> list:
    # Absent from requests of earlier releases.
    inputs = [[names[i] for i in variable.inputs]] if variable.inputs else []
    layers = [names[i] for i in variable.layers]
    return [COLUMN_NAMES[variable.column], layers, list(variable.allowed), *inputs]


def _fields(transform: Transform) -> dict:
    return {"transform": type(transform).__name__} | dataclasses.asdict(transform)


def _checksum(sets: ImageSets) -> str:
    return arrays_digest({str(i): batch["image"] for i, batch in enumerate(sets.batches)})
