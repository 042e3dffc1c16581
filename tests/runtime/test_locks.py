"""One run at a time in a folder, whatever becomes of the one that is there."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfquant_jax.errors import UserError
from rfquant_jax.runtime import locks
from rfquant_jax.runtime.locks import WorkdirLock

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from rfquant_jax.runtime.locks import WorkdirLock
held = WorkdirLock(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(600)
"""


def silent(message):
    raise AssertionError(message)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def holder(path):
    """Another process that has the lock."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_with_the_name_of_the_process(path, holder):
    before = path.read_text()
    with pytest.raises(UserError) as error:
        WorkdirLock(path, silent)
    assert re.fullmatch(
        rf"`workdir`={re.escape(str(path.parent))} is in use by process {holder.pid} on host "
        rf"{re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait for it, "
        "stop it, or take another `workdir`",
        str(error.value),
    )
    assert path.read_text() == before


def test_a_killed_holder_leaves_nothing_behind(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    mine = WorkdirLock(path, silent)
    assert json.loads(path.read_text())["process"] == os.getpid()
    mine.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"process": 1}', b"[" * 10_000])
def test_a_holder_that_says_nothing_of_itself_is_another_process(path, holder, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="is in use by another process;"):
        WorkdirLock(path, silent)


def test_what_a_holder_says_is_printed_safely(path, holder):
    path.write_text(json.dumps({"process": "\x1b[2J\n", "host": "h" * 2000, "since": 1}))
    with pytest.raises(UserError) as error:
        WorkdirLock(path, silent)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500 + len(str(path))


def test_one_process_may_take_it_several_times(path):
    first, second = WorkdirLock(path, silent), WorkdirLock(path, silent)
    first.release()
    assert not is_free(path)
    second.release()
    assert is_free(path)
    WorkdirLock(path, silent).release()


def is_free(path):
    """Whether another process could take it."""
    command = [sys.executable, "-c", HOLDER.replace("time.sleep(600)", ""), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 or "is in use by process" in done.stderr, done.stderr
    return done.returncode == 0


def test_without_locks_of_the_file_system_the_run_goes_on(path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    said = []
    WorkdirLock(path, said.append).release()
    assert len(said) == 1
    assert "this file system does not support locks (No locks available)" in said[0]


def test_other_errors_are_not_swallowed(path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = set(locks._held)
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        WorkdirLock(path, silent)
    assert set(locks._held) == before


def test_it_starts_at_the_time_it_tells(path):
    before = time.strftime("%Y-%m-%d %H:%M:%S")
    WorkdirLock(path, silent).release()
    about = json.loads(path.read_text())
    assert before <= about["since"] <= time.strftime("%Y-%m-%d %H:%M:%S")
    assert about["host"] == socket.gethostname()
