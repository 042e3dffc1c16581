"""What the machine does to a run, from the command line: one line each, and nothing is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from configs import quickstart
from rfquant_jax import tasks
from rfquant_jax.errors import UserError
from rfquant_jax.tasks.run import Run
from tests.launch.conftest import LAUNCH, LONGEST, SHRUNK, assert_one_line, read

INTACT = "checkpoints written before are intact"
LIMITED = 'ulimit -f "$1"; shift; exec "$@"'


def assert_failed(done, said):
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(f"^error: .*{said}.*{INTACT}", done.stderr), done.stderr


@pytest.fixture
def launch_limited(environment):
    """Like `launch`, but no file may grow beyond so many KiB: a disk that is full for it."""

    def run(kib, *arguments):
        command = ["bash", "-c", LIMITED, "-", str(kib), sys.executable, str(LAUNCH), *arguments]
        environ = environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=LONGEST)

    return run


def test_metrics_that_cannot_be_written_end_training_in_one_line(launch, launch_limited, tmp_path):
    """What was written before stays, and the same command ends as if nothing had happened."""
    arguments = [
        *SHRUNK,
        "--config.tasks=pretrain",
        "--config.pretrain.epochs=8",
        "--config.train.eval_every=8",
        "--config.train.log_every=1",
        f"--workdir={tmp_path}",
    ]
    metrics = tmp_path / "metrics.jsonl"
    done = launch_limited(6, *arguments)
    assert_failed(done, f"{re.escape(str(tmp_path))}/.*: could not be written .File too large.;")
    assert "raise the limit on the size of files and start the same command again" in done.stderr
    assert "Traceback (most recent call last)" in (tmp_path / "log.txt").read_text()
    assert len([json.loads(text) for text in metrics.read_text().splitlines()[:-1]]) > 10
    again = launch(*arguments)
    assert again.returncode == 0, again.stderr
    steps = [r["step"] for r in map(json.loads, metrics.read_text().splitlines()) if "loss" in r]
    assert steps == sorted(set(steps))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_under_the_log_is_said_once(launch, tmp_path):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    arguments = [*SHRUNK, "--config.tasks=pretrain", f"--workdir={tmp_path}"]
    assert_failed(launch(*arguments), r"log\.txt: could not be written .No space left on device.;")
    (tmp_path / "log.txt").unlink()
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("task", [name for name in tasks.TASKS if name != "cost"])
def test_no_task_starts_where_nothing_can_be_written(tmp_path, task):
    """For root nothing is read-only, but there is no folder below a file for anybody."""
    (tmp_path / "file").write_text("")
    run = Run(quickstart.get_config(), tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"run: cannot be written \(Not a directory\)"):
        tasks.TASKS[task](run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workdir_is_refused(launch, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    done = launch(*SHRUNK, "--config.tasks=pretrain", f"--workdir={folder}")
    assert_one_line(done, f"--workdir={folder}: cannot be written (Permission denied)")


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_gone(environment, launch, tmp_path):
    arguments = [*SHRUNK, "--config.tasks=pretrain", f"--workdir={tmp_path}"]
    arguments.append("--config.pretrain.epochs=1000")
    process = subprocess.Popen(
        [sys.executable, str(LAUNCH), *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + LONGEST
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log = (tmp_path / "log.txt").read_text()
    try:
        done = launch(*arguments)
        assert_one_line(done, f"--workdir={tmp_path} is in use by process {process.pid} on host ")
        assert done.stdout == ""
        assert (tmp_path / "log.txt").read_text().startswith(log)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = launch(*SHRUNK, "--config.tasks=cost", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "lock")["process"] == process.pid
