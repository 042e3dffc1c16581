"""A run that is stopped by a signal and started again."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from rfquant_jax.tasks import networks
from rfquant_jax.tasks.run import Run
from tests.launch.conftest import LAUNCH, LONGEST, SHRUNK, copy_without_search, read
from tests.quick_to_compile import xla_flags


def trained_arrays(workdir):
    run = Run(ConfigDict(read(workdir / "config.json")), workdir)
    trained = networks.coupled(run)
    return {k: np.asarray(v) for k, v in (trained.params | trained.stats).items()}


def steps_of_training(workdir):
    """The steps that `metrics.jsonl` has a line of."""
    path = workdir / "metrics.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    return [line["step"] for line in lines if line["task"] == "train" and "loss" in line]


@pytest.mark.parametrize(("number", "task"), [(signal.SIGTERM, "train"), (signal.SIGINT, "search")])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    environment, launch, finished, tmp_path, number, task
):
    command = [sys.executable, str(LAUNCH), *SHRUNK, f"--workdir={tmp_path}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    file, sign = {
        "train": (tmp_path / "metrics.jsonl", '"task": "train"'),
        "search": (tmp_path / "search" / "profile.jsonl", '"divergence"'),
    }[task]
    deadline = time.monotonic() + LONGEST
    while not (file.exists() and sign in file.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=LONGEST)
    assert process.returncode == 75, errors
    assert "run the same command to resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "results.json").exists()

    if task == "train":
        copy = tmp_path.with_name("two_devices")
        shutil.copytree(tmp_path, copy)
        two = {"XLA_FLAGS": xla_flags(2)}
        done = launch(*SHRUNK, "--config.tasks=pretrain,train", f"--workdir={copy}", **two)
        assert done.returncode == 0, done.stderr
        assert re.search(r"train: resumes after step \d+", done.stdout)
        assert steps_of_training(copy) == list(range(5, 61, 5))
    done = launch(*SHRUNK, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    if task == "train":
        assert re.search(r"train: resumes after step \d+", done.stdout)
    else:
        assert re.search(r"search: .*; [1-9]\d* evaluations available", done.stdout)
    assert_equals_undisturbed(tmp_path, finished[0])
    assert steps_of_training(tmp_path) == list(range(5, 61, 5)), (
        "no line is missing and none stands twice"
    )


def test_a_training_that_is_killed_ends_as_if_nothing_had_happened(
    environment, launch, finished, tmp_path
):
    """Killed twice: while it writes a checkpoint, and at some other moment; then left alone."""
    saving = [*SHRUNK, "--config.checkpoints.every_steps=10", f"--workdir={tmp_path}"]
    folder, command = tmp_path / "checkpoints" / "train", [sys.executable, str(LAUNCH), *saving]

    def kill_when(ready):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + LONGEST
        while not ready():
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
        process.wait()

    def whole():
        return [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]

    kill_when(lambda: any(folder.glob("*.orbax-checkpoint-tmp")))
    assert not whole() or max(whole()) < 60
    kill_when(lambda: whole() and max(whole()) >= 30)
    assert not (tmp_path / "results.json").exists()
    done = launch(*saving)
    assert done.returncode == 0, done.stderr
    assert re.search(r"train: resumes after step [345]0", done.stdout)
    assert_equals_undisturbed(tmp_path, finished[0])


def assert_equals_undisturbed(workdir, undisturbed):
    assert read(workdir / "results.json") == read(undisturbed / "results.json")
    for name in ("1.05xw4a4.json", "1.05xw2a2.json"):
        assert read(workdir / "search" / name) == read(undisturbed / "search" / name)
    expected = trained_arrays(undisturbed)
    for name, values in trained_arrays(workdir).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_search_that_is_killed_ends_as_if_nothing_had_happened(
    environment, launch, finished, tmp_path
):
    """Killed while it measures, while it searches, and while it confirms; then left alone."""
    workdir = copy_without_search(finished[0], tmp_path / "copy")
    arguments = [*SHRUNK, "--config.tasks=search", f"--workdir={workdir}"]
    command = [sys.executable, str(LAUNCH), *arguments]
    whole = {f.name: f.read_text() for f in (finished[0] / "search").iterdir()}
    measured = read(finished[0] / "search" / "snapshot.json")["length"]
    moments = (("profile.jsonl", 5), ("profile.jsonl", measured + 2), ("confirmed.jsonl", 3))
    for name, lines in moments:
        assert len(whole[name].splitlines()) > lines + 1
        process = subprocess.Popen(command, env=environment)
        record, deadline = workdir / "search" / name, time.monotonic() + LONGEST
        while not record.exists() or record.read_text().count("\n") < lines:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not (workdir / "frontier.json").exists()
    kept = record.read_text()
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    evaluations = whole["profile.jsonl"].count("\n") - 1
    assert f"; {evaluations} evaluations available" in done.stdout
    assert record.read_text().startswith(kept[: kept.rindex("\n")])
    for name, content in whole.items():
        assert (workdir / "search" / name).read_text() == content, name
    for name in ("frontier.json", "sensitivity.json", "surrogate.json"):
        assert read(workdir / name) == read(finished[0] / name), name
