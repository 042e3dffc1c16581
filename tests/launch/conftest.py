"""One shrunken quickstart that all tests of the command line share."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run
from tests.quick_to_compile import environment

LAUNCH = Path(__file__).resolve().parents[2] / "launch.py"
SHRUNK = [
    "--config.model.name=cifar_resnet8",  # quick to compile
    "--config.pretrain.epochs=2",
    "--config.train.epochs=4",
    "--config.train.eval_every=2",
    "--config.train.log_every=5",
    "--config.scheduler.enabled=True",  # which the quickstart leaves out
    "--config.scheduler.start_epoch=0",
    "--config.scheduler.late_period=4",
    "--config.losses.damping_start_epoch=1",
    "--config.quant.calibration_batches=2",
    "--config.search.budgets=1.05*w4a4,1.05*w2a2",
    "--config.search.profile=30",
    "--config.search.evaluations=12",
    "--config.search.views=1",
    "--config.search.frontier_points=3",
    "--config.search.max_iterations_per_layer=2",
    "--config.search.starts=3",  # each of them is a program to compile
]
LONGEST = 1200  # seconds that a command may take on a machine that is busy with other work


@pytest.fixture(scope="session", name="environment")
def _environment():
    """Processes of one device."""
    return environment(devices=1)


@pytest.fixture(scope="session")
def launch_alone(environment):
    """Runs a command line in a process of its own, as users do."""

    def run(*arguments, **changes):
        return subprocess.run(
            [sys.executable, str(LAUNCH), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment | changes,
            timeout=LONGEST,
        )

    return run


@pytest.fixture(scope="session")
def launch(environment, tmp_path_factory):
    """Runs a command line in a fork of a process that has imported what it needs.

    `changes` are of variables that are read after importing JAX.
    """
    folder = tmp_path_factory.mktemp("launched")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.launch.prepared"],
        cwd=LAUNCH.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(*arguments, **changes):
        output, errors = folder / "output", folder / "errors"
        for file in (output, errors):
            file.unlink(missing_ok=True)
        request = {
            "arguments": [str(LAUNCH), *map(str, arguments)],
            "environment": environment | changes,
            "output": str(output),
            "errors": str(errors),
            "timeout": LONGEST,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            request["arguments"], code, output.read_text(), errors.read_text()
        )

    with server:  # it ends with its input
        yield run
    assert server.returncode == 0


@pytest.fixture(scope="session")
def finished(launch_alone, tmp_path_factory, worker_id):
    """The workdir and the output of an undisturbed run; each worker has a copy of its own."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "finished"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the worker that needs it first makes it
        if not (shared / "output").exists():
            done = launch_alone(*SHRUNK, f"--workdir={shared / 'run'}")
            assert done.returncode == 0, done.stderr
            (shared / "output").write_text(done.stdout)
    shutil.copytree(shared / "run", workdir)
    output = (shared / "output").read_text()
    return workdir, output.replace(str(shared / "run"), str(workdir))


def read(path):
    return json.loads(path.read_text())


def copy_without_search(workdir, folder):
    """A copy of a finished run as it was before the task search; returns its folder."""
    later = ("search", "results.json", "report.html", "frontier.*", "sensitivity.*", "surrogate.*")
    shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns(*later, "bits.png", "lock"))
    return folder


def table_of(output):
    return output[output.index("configuration  ") :]


def save_as_pytorch(workdir, path):
    """Writes a run's full-precision network as PyTorch names and lays out tensors."""
    trained = networks.full_precision(Run(ConfigDict(read(workdir / "config.json")), workdir))
    names = {"scale": "weight", "mean": "running_mean", "var": "running_var", "kernel": "weight"}
    tensors = {}
    for name, values in (trained.params | trained.stats).items():
        layer, _, part = name.rpartition(".")
        values = np.asarray(values)
        if part == "kernel":
            values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
        tensors[f"{layer}.{names.get(part, part)}"] = values
    np.savez(path, **tensors)


def assert_one_line(done, said):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
