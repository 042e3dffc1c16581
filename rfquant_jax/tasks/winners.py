"""The configurations that the task `export` exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rfquant_jax.checkpoint.checkpoints import TRAIN, stage_folder
from rfquant_jax.errors import UserError, listed
from rfquant_jax.export import format_names
from rfquant_jax.quant.space import Space
from rfquant_jax.runtime.json_files import read_json
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import SEARCH_FOLDER

Winners = dict[str, tuple[str, np.ndarray]]  # checkpoint and configuration by file name


def configurations(run: Run) -> dict[str, np.ndarray]:
    """The configurations to export, int32[L, 2], by file name.

    Raises:
      UserError: no configuration is named, and there are no winners of a search of this network.
    """
    if run.configuration is not None:
        return {file_name(run.config.configuration): run.configuration}
    workdir, found = searched(run)
    own = _checkpoint_seen_from(run, workdir)
    if stale := [n for n, (checkpoint, _) in found.items() if checkpoint != own]:
        raise UserError(
            f"{workdir / SEARCH_FOLDER}: {listed(stale)} were found for another state of "
            f"the network than {own}; search again, or name one with config.configuration"
        )
    return {name: configuration for name, (_, configuration) in found.items()}


def file_name(configuration: str) -> str:
    """The name of the files of the config's configuration.

    Raises:
      UserError: the name is invalid.
    """
    name = re.sub(r"[^\w.-]+", "_", Path(configuration.removesuffix(".json")).name).strip("_.")
    if name in ("", format_names.BUNDLE):
        raise UserError(
            f"config.configuration={configuration}: its file name is used for exported "
            f"files and must not be {name or 'empty'!r}"
        )
    return name


def searched(run: Run) -> tuple[Path, Winners]:
    """A workdir with results of a search, and its winners.

    Raises:
      UserError: there is none.
    """
    places = dict.fromkeys([run.workdir, networks.source_of(run, TRAIN)])
    for workdir in places:
        if found := dict(_winners(run.plan.space, workdir / SEARCH_FOLDER)):
            return workdir, found
    folders = " nor ".join(str(workdir / SEARCH_FOLDER) for workdir in places)
    raise UserError(
        f"nothing to export: config.configuration names no configuration, and {folders} holds no "
        "result of the task search"
    )


def _checkpoint_seen_from(run: Run, workdir: Path) -> str:
    """The origin of the run's network as written by a search in `workdir`."""
    origin = networks.origin(run, TRAIN)
    if workdir == run.workdir:
        return origin
    return str(stage_folder(Path(), TRAIN) / Path(origin).name)


def _winners(space: Space, folder: Path) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """Name, checkpoint and configuration of each result of a search."""
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and "budget" in content and "layers" in content:
            configuration = space.from_json(content, source=str(path))
            yield path.stem, (content.get("checkpoint"), configuration)
