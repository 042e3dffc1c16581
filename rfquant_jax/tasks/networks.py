"""Loads trained networks from checkpoints for later tasks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from rfquant_jax.checkpoint.checkpoints import PRETRAIN, TRAIN, Checkpoints, stage_folder
from rfquant_jax.errors import CheckpointError, UserError
from rfquant_jax.nn.functional import Arrays, FunctionalNetwork
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.digest import path_digest
from rfquant_jax.tasks.run import Run

# Alternatives if a stage has no checkpoint.
_OTHERWISE = {PRETRAIN: ", or config.pretrained must name weights and pretrain.epochs be 0"}


@dataclass(frozen=True)
class Trained:
    """A network with its averaged parameters and statistics, replicated over the run's devices.

    Attributes:
      origin: its checkpoint, see `origin`.
      masks: bool[2, L, |B|], candidate masks of weights and activations when the checkpoint was
        written; only for coupled networks.
    """

    functional: FunctionalNetwork
    params: Arrays
    stats: Arrays
    origin: str
    masks: np.ndarray | None = None

    def network(self) -> nnx.Module:
        """The network as a module."""
        return self.functional.merge(self.params, self.stats)


def source_of(run: Run, stage: str) -> Path:
    """The workdir of a stage's network: the run's own, else `config.checkpoint`."""
    if run.config.checkpoint and not has_checkpoints(run.workdir, stage):
        return other_run(run)
    return run.workdir


def other_run(run: Run) -> Path:
    """The folder of `config.checkpoint`."""
    return Path(run.config.checkpoint)


def exists(run: Run, stage: str) -> bool:
    """Whether there is a checkpoint of this stage, or a weight file."""
    if has_checkpoints(source_of(run, stage), stage):
        return True
    return _is_imported(run, stage) and os.path.exists(run.config.pretrained)


def _is_imported(run: Run, stage: str) -> bool:
    """Whether the network is `config.pretrained` without any checkpoint."""
    if stage != PRETRAIN or not run.config.pretrained or run.config.pretrain.epochs:
        return False
    return not has_checkpoints(source_of(run, stage), stage)


def origin(run: Run, stage: str) -> str:
    """The origin of a stage's network: a path, relative to the workdir if inside it, and a
    checksum.

    The first digits of the checksum distinguish networks with the same path.

    Raises:
      CheckpointError: there is no checkpoint, or none with a score.
    """
    if _is_imported(run, stage):
        path = Path(run.config.pretrained)
        return f"{path.name} sha256:{path_digest(path)[:16]}"
    with _opened(run, stage) as checkpoints:
        return _origin(run, stage, checkpoints, _best(checkpoints, stage))


def check(run: Run, stage: str, *, field: str = "") -> None:
    """Checks that there is a network of this stage and that it fits the run.

    Args:
      field: name of the folder in errors; default: the config field it comes from.

    Raises:
      UserError: there is no network, or it does not fit.
    """
    if _is_imported(run, stage):
        _imported_network(run)
        return
    with _opened(run, stage, field) as checkpoints:
        _best(checkpoints, stage)  # validates the checkpoint


@contextmanager
def _opened(run: Run, stage: str, field: str = "", *, quiet: bool = True) -> Iterator[Checkpoints]:
    """The checkpoints of a stage's network."""
    source = source_of(run, stage)
    if not has_checkpoints(source, stage):
        field = field or ("config.checkpoint" if source != run.workdir else "--workdir")
        raise CheckpointError(
            f"{field}={source}: has no {stage} checkpoint; it must be the folder of a run of "
            f"the task {stage}{_OTHERWISE.get(stage, '')}"
        )
    with run.checkpoints(stage, source=source, quiet=quiet) as checkpoints:
        yield checkpoints


def full_precision(run: Run) -> Trained:
    """The trained full-precision network, or `config.pretrained` if nothing was trained.

    Raises:
      UserError: there is no network, or it does not fit.
    """
    if _is_imported(run, PRETRAIN):
        functional = FunctionalNetwork(_imported_network(run))
        run.log.info(f"full precision: {run.config.pretrained}, not trained further")
        params, stats = devices.replicate((functional.params, functional.stats), run.mesh)
        return Trained(functional, params, stats, origin(run, PRETRAIN))
    return _load(run, PRETRAIN, lambda about: run.network)


def coupled(run: Run) -> Trained:
    """The trained coupled network, from the best checkpoint.

    Raises:
      CheckpointError: there is no checkpoint, or it is of another network.
    """
    return _load(run, TRAIN, lambda about: run.plan.convert(run.network, about["signed"]))


def _load(run: Run, stage: str, build) -> Trained:
    with _opened(run, stage, quiet=False) as checkpoints:
        step = _best(checkpoints, stage)
        about = checkpoints.about(step)
        functional = FunctionalNetwork(build(about))
        ema = checkpoints.restore_ema(
            step, {"params": functional.params, "stats": functional.stats}
        )
        origin = _origin(run, stage, checkpoints, step)
    params, stats = devices.replicate((ema["params"], ema["stats"]), run.mesh)
    masks = np.asarray(about["masks"], bool) if stage == TRAIN else None
    return Trained(functional, params, stats, origin, masks)


def _best(checkpoints: Checkpoints, stage: str) -> int:
    step = checkpoints.best
    if step is None:
        raise CheckpointError(
            f"{checkpoints.path(checkpoints.latest)}: has no score yet, and there is no other; "
            f"the task {stage} must continue until its next evaluation"
        )
    return step


def _origin(run: Run, stage: str, checkpoints: Checkpoints, step: int) -> str:
    source = source_of(run, stage)
    outside = Path() if source == run.workdir else source
    # Training from scratch ends at the same step with another network.
    return f"{stage_folder(outside, stage) / str(step)} sha256:{checkpoints.digest(step)[:16]}"


def _imported_network(run: Run) -> nnx.Module:
    network, fresh = run.initial_network
    if fresh:
        raise UserError(
            f"config.pretrained={run.config.pretrained}: has other classes, so {', '.join(fresh)} "
            "would be random; the task pretrain with pretrain.epochs above 0 trains them"
        )
    return network


def has_checkpoints(workdir: Path, stage: str) -> bool:
    """Whether a folder has a checkpoint of this stage."""
    folder = stage_folder(workdir, stage)
    return os.path.isdir(folder) and any(entry.name.isdigit() for entry in folder.iterdir())
