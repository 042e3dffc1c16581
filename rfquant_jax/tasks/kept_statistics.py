"""Recalibrated BatchNorm statistics that an evaluation keeps for predictions without images."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rfquant_jax import data
from rfquant_jax.checkpoint.checkpoints import TRAIN
from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.errors import UserError
from rfquant_jax.nn.functional import Arrays
from rfquant_jax.runtime.digest import arrays_digest, json_digest
from rfquant_jax.runtime.files import replacing
from rfquant_jax.runtime.npz import read_npz
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.stored_data import is_stored
from rfquant_jax.tasks.workdir import STATISTICS_FOLDER

_DIGEST = "sha256"  # of the arrays, as bytes of text


def keep(run: Run, origin: str, configuration: np.ndarray, statistics: Arrays) -> None:
    """Writes the statistics of a configuration to the workdir.

    Args:
      origin: the checkpoint of the network, see `networks.origin`.
      configuration: int32[L, 2].
      statistics: from `Measure.recalibrated`.
    """
    arrays = {name: np.asarray(values) for name, values in statistics.items()}
    digest = np.frombuffer(arrays_digest(arrays).encode(), np.uint8)
    path = _path(run, run.workdir, origin, configuration)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **{_DIGEST: digest})


def kept(run: Run, origin: str, configuration: np.ndarray) -> Arrays | None:
    """The statistics of the same network, configuration and settings, or None if there are none.

    They are looked for in the workdir and in that of the network. A damaged file counts as none.
    """
    for path in _places(run, origin, configuration):
        try:
            arrays = read_npz(path)
        except (OSError, ValueError, zipfile.BadZipFile):
            continue
        digest = arrays.pop(_DIGEST, np.zeros(0, np.uint8)).tobytes()
        if digest == arrays_digest(arrays).encode():
            return arrays
    return None


def check(run: Run) -> None:
    """Checks that a quantized prediction has images to recalibrate on, or kept statistics.

    Raises:
      UserError: it has neither.
    """
    if run.configuration is None or not is_stored(run.data):
        return
    if kept(run, networks.origin(run, TRAIN), run.configuration) is not None:
        return
    try:
        with in_field_names():
            data.load(run.config.data)
    except UserError as error:
        raise UserError(
            f"{error}; a quantized prediction recalibrates BatchNorm on these images, unless the "
            "task evaluate has run for the same configuration"
        ) from error


def _places(run: Run, origin: str, configuration: np.ndarray) -> Iterator[Path]:
    for workdir in dict.fromkeys([run.workdir, networks.source_of(run, TRAIN)]):
        yield _path(run, workdir, origin, configuration)


def _path(run: Run, workdir: Path, origin: str, configuration: np.ndarray) -> Path:
    """The file of a configuration: its name is a digest of everything the statistics depend on."""
    evaluation = run.config.evaluate
    identity = {
        "network": origin.rpartition(":")[2],  # the checksum, wherever the checkpoint is
        "configuration": np.asarray(configuration).tolist(),
        "images": evaluation.recalibration_images,
        "batch_size": evaluation.batch_size,
        "augment": evaluation.augment,
        "seed": run.config.seed,
        "dtype": np.dtype(run.compute_type).name,
    }
    return workdir / STATISTICS_FOLDER / f"{json_digest(identity)[:16]}.npz"
