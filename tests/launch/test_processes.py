"""One run in two real processes on this machine, with two fake devices each."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.launch.conftest import LAUNCH, LONGEST, SHRUNK, read
from tests.launch.test_stopping import steps_of_training, trained_arrays
from tests.quick_to_compile import xla_flags

SMALL = [
    *SHRUNK,
    "--config.train.epochs=2",
    "--config.checkpoints.every_steps=10",
    "--config.checkpoints.every_minutes=0.0",
    "--config.search.budgets=1.05*w2a2",
    "--config.search.algorithm=random",
    "--config.search.evaluations=24",
    "--config.search.frontier_points=2",
    "--config.distributed.heartbeat_timeout_seconds=60",
]
TWO_DEVICES = {"XLA_FLAGS": xla_flags(2)}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def both(environment, workdir, *arguments):
    """Both processes of a run; none is left behind."""
    address = f"--config.distributed.coordinator=127.0.0.1:{free_port()}"
    command = [sys.executable, str(LAUNCH), *SMALL, f"--workdir={workdir}", address, *arguments]
    processes = [
        subprocess.Popen(
            [*command, "--config.distributed.processes=2", f"--config.distributed.process={i}"],
            env=environment | TWO_DEVICES,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(processes):
    """Exit codes and outputs."""
    deadline = time.monotonic() + LONGEST
    outputs = [p.communicate(timeout=max(deadline - time.monotonic(), 1)) for p in processes]
    return [p.returncode for p in processes], outputs


def wait_for_step(processes, workdir, step):
    deadline = time.monotonic() + LONGEST
    while step not in steps_of_training(workdir):
        assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("processes") / "undisturbed"
    with both(environment, workdir) as processes:
        codes, outputs = finish(processes)
    assert codes == [0, 0], outputs
    return workdir, outputs


def test_a_stopped_and_a_lost_process_and_all_go_on_where_they_were(
    environment, undisturbed, tmp_path
):
    with both(environment, tmp_path) as processes:
        wait_for_step(processes, tmp_path, 5)
        processes[1].send_signal(signal.SIGTERM)
        codes, outputs = finish(processes)
    assert codes == [75, 75], outputs  # a signal to one of them stops both after the same step

    with both(environment, tmp_path) as processes:
        wait_for_step(processes, tmp_path, 15)
        processes[1].send_signal(signal.SIGKILL)
        codes, outputs = finish(processes)
    assert codes[0] not in (0, 75)
    error = outputs[0][1]
    assert error.count("\n") == 1, error
    host = re.escape(socket.gethostname())
    assert re.match(rf"error: lost process 1 \(on {host}\) of 2: .* 60 s; .*intact", error)

    with both(environment, tmp_path) as processes:
        codes, outputs = finish(processes)
    assert codes == [0, 0], outputs
    assert "train: resumes after step 10" in outputs[0][0]
    assert steps_of_training(tmp_path) == list(range(5, 31, 5)), "none is missing, none twice"
    expected = trained_arrays(undisturbed[0])
    for name, values in trained_arrays(tmp_path).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert results_of(tmp_path) == results_of(undisturbed[0])


def results_of(workdir):
    files = [workdir / "results.json", *sorted((workdir / "search").glob("*.json"))]
    return {file.name: read(file) for file in files}


def test_only_the_first_process_tells_and_writes(undisturbed):
    workdir, outputs = undisturbed
    assert re.search(r"^1\.05\*w2a2 .* w2a2 ", outputs[0][0], re.MULTILINE)  # its row of results
    assert not re.search("train|search|evaluate", outputs[1][0])
    assert steps_of_training(workdir) == list(range(5, 31, 5))
    assert len((workdir / "search" / "confirmed.jsonl").read_text().splitlines()) == len(
        set((workdir / "search" / "confirmed.jsonl").read_text().splitlines())
    )


def test_one_device_finds_and_counts_the_same_in_the_same_network(
    environment, launch, undisturbed, tmp_path
):
    other = f"--config.checkpoint={undisturbed[0]}"
    again = ["--config.tasks=search,evaluate", other, f"--workdir={tmp_path}"]
    done = launch(*SMALL, *again)
    assert done.returncode == 0, done.stderr
    mine, theirs = results_of(tmp_path), results_of(undisturbed[0])
    assert mine["results.json"]["rows"] == theirs["results.json"]["rows"]
    for of in ("layers", "confirmed"):
        assert mine["1.05xw2a2.json"][of] == theirs["1.05xw2a2.json"][of]


@pytest.mark.slow
def test_a_training_that_explodes_ends_in_all_processes(environment, undisturbed, tmp_path):
    exploding = [
        "--config.tasks=train",
        f"--config.checkpoint={undisturbed[0]}",
        "--config.optimizer.lr=1e30",
        "--config.optimizer.warmup_epochs=0",
        "--config.train.max_bad_steps=2",
    ]
    with both(environment, tmp_path, *exploding) as processes:
        codes, outputs = finish(processes)
    assert codes == [1, 1], outputs
    for _, error in outputs:
        assert error.count("\n") == 1, error
        assert error.startswith("error: train: step ")
        assert "updates were skipped for 2 steps in a row" in error


def test_a_process_that_never_comes_is_missed(environment, tmp_path):
    with both(environment, tmp_path, "--config.distributed.start_timeout_seconds=5") as processes:
        os.kill(processes[0].pid, signal.SIGKILL)
        codes, outputs = finish(processes)
    assert codes[1] not in (0, 75)
    assert outputs[1][1].count("\n") == 1, outputs[1][1]
    assert "did not connect" in outputs[1][1]
