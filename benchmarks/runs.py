"""Runs of launch.py that a benchmark starts, disturbs and compares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.tasks import networks
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.workdir import read_json

LAUNCH = [sys.executable, str(Path(__file__).resolve().parents[1] / "launch.py")]
# A quickstart of half a minute: 30 full-precision steps, then 60 coupled ones.
SMALL = [
    "--config.pretrain.epochs=2",
    "--config.train.epochs=4",
    "--config.train.eval_every=2",
    "--config.scheduler.start_epoch=0",
    "--config.losses.damping_start_epoch=1",
    "--config.quant.calibration_batches=2",
    "--config.search.budgets=1.05*w4a4,1.05*w2a2",
    "--config.search.algorithm=greedy",
    "--config.search.max_iterations_per_layer=2",
]


def share_compilation(root: Path) -> None:
    """Lets all runs started from here on compile everything once."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(root / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def launched(
    arguments: list[str], workdir: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Starts a run; what it prints goes into a file, because nobody reads a pipe meanwhile."""
    command = [*LAUNCH, *arguments, f"--workdir={workdir}"]
    with printed(workdir).open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def printed(workdir: Path) -> Path:
    """What the last run in a workdir printed."""
    return workdir.with_suffix(".out")


def finish(process: subprocess.Popen, workdir: Path) -> None:
    """Waits for the end of a run, which must be a good one."""
    if process.wait():
        raise SystemExit(printed(workdir).read_text())


def outcome(workdir: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """What comes out of a run: the trained arrays' bytes by name, and evaluations by file."""
    trained = networks.coupled(Run(ConfigDict(read_json(workdir / "config.json")), workdir))
    arrays = trained.params | trained.stats
    files = (workdir / "evaluations").glob("*.json")
    return (
        {name: np.asarray(values).tobytes() for name, values in arrays.items()},
        {file.name: file.read_text() for file in files},
    )
