"""Post-training quantization on the command line: conversion and calibration, no training."""

import re
import signal
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from rfquant_jax.evaluate.measure import NO_CONFIGURATION
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import measure_of
from rfquant_jax.tasks.run import Run
from tests.launch.conftest import LAUNCH, LONGEST, read, table_of

pytestmark = pytest.mark.slow  # it pretrains a whole quickstart
RECIPE = """
from ml_collections import ConfigDict

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.model.name, config.model.options = "mobilenetv2_tiny", ConfigDict()
    config.quant.split_candidates = True
    config.optimizer.warmup_epochs = 5
    return config
"""
ARGUMENTS = [
    "--config.tasks=pretrain,train,evaluate",
    "--config.train.epochs=0",
    # None of the recipe's budgets can be asked of these.
    "--config.quant.candidates=(8,6,5,4)",
]


@pytest.fixture(scope="module")
def workdir(environment, launch, tmp_path_factory):
    """A run that was stopped while it calibrated, and started again; its output is in the log."""
    folder = tmp_path_factory.mktemp("post_training")
    (folder / "recipe.py").write_text(RECIPE)
    workdir = folder / "run"
    arguments = [f"--config={folder / 'recipe.py'}", *ARGUMENTS, f"--workdir={workdir}"]
    process = subprocess.Popen(
        [sys.executable, str(LAUNCH), *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    log, deadline = workdir / "log.txt", time.monotonic() + LONGEST
    while not (log.exists() and "step sizes of least squared error" in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LONGEST)
    assert process.returncode == 75, errors
    assert "run the same command to resume" in errors
    assert not any((workdir / "checkpoints").glob("train/[0-9]*"))
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert "pretrain: finished before" in done.stdout
    assert "train: untrained: held-out top-1" in done.stdout
    again = launch(*arguments)
    assert again.returncode == 0, again.stderr
    assert "train: finished before, at step 0" in again.stdout
    assert table_of(again.stdout) == table_of(done.stdout)
    return workdir, done.stdout


def test_many_bits_keep_the_accuracy_without_any_training(workdir):
    """8 bits within 1 point, 6 within 3, of the full-precision network, both recalibrated."""
    workdir, output = workdir
    run = Run(ConfigDict(read(workdir / "config.json")), workdir)
    trained = networks.full_precision(run)
    exact = measure_of(run, trained.functional).quantized(
        run.data.test, trained.params, NO_CONFIGURATION
    )
    found = {
        int(bits): float(top1)
        for bits, top1 in re.findall(r"^uniform w(\d)a\1 .* ([\d.]+)$", table_of(output), re.M)
    }
    assert sorted(found) == [4, 5, 6, 8]
    assert exact.top1_percent > 90
    assert found[8] >= exact.top1_percent - 1
    assert found[6] >= exact.top1_percent - 3


def test_a_network_without_training_is_searched_and_exported(workdir, launch, tmp_path):
    workdir, _ = workdir
    arguments = [f"--config={workdir.parent / 'recipe.py'}", *ARGUMENTS]
    arguments[1] = "--config.tasks=search,evaluate,export"
    done = launch(
        *arguments,
        f"--config.checkpoint={workdir}",
        f"--workdir={tmp_path}",
        "--config.search.budgets=8KB",
        "--config.search.algorithm=greedy",
        "--config.search.max_iterations_per_layer=1",
        "--config.search.starts=2",
        "--config.export.formats=('integer',)",
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "search" / "8KB.json")["size_mb"] <= 8 / 1024
    assert (tmp_path / "export" / "8KB.safetensors").exists()
