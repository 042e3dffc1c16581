"""Starts, disturbs and compares runs of launch.py for benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rfquant_jax.runtime.json_files import read_json
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run

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
    """Shares a compilation cache among all runs started from now on."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(root / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def launched(
    arguments: list[str], workdir: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Starts a run. Output goes to a file, because an unread pipe would fill up and block it."""
    command = [*LAUNCH, *arguments, f"--workdir={workdir}"]
    with printed(workdir).open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def printed(workdir: Path) -> Path:
    """The output of the last run in a workdir."""
    return workdir.with_suffix(".out")


def finish(process: subprocess.Popen, workdir: Path) -> None:
    """Waits for the end of a run, which must succeed."""
    if process.wait():
        raise SystemExit(printed(workdir).read_text())


def outcome(workdir: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """The results of a run: bytes of trained arrays by name, and evaluations by file."""
    trained = networks.coupled(Run(ConfigDict(read_json(workdir / "config.json")), workdir))
    arrays = trained.params | trained.stats
    files = (workdir / "evaluations").glob("*.json")
    return (
        {name: np.asarray(values).tobytes() for name, values in arrays.items()},
        {file.name: file.read_text() for file in files},
    )
