"""Freed memory: whether the process keeps it."""

import subprocess
import sys

import pytest

from rfquant_jax import memory

# Resident megabytes before 100 MB are used, with them, and after they were freed.
PROGRAM = """
import sys
import numpy as np
from rfquant_jax import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

if "keep" in sys.argv:
    assert memory.keep_freed_memory()
before = resident()
used = np.ones(100_000_000, np.uint8)
during = resident()
del used
print(before, during, resident())
"""


def run(*arguments):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return map(float, done.stdout.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_is_kept_if_asked_for():
    before, during, after = run()
    assert during - before > 90
    assert after - before < 10
    before, during, after = run("keep")
    assert during - before > 90
    assert after - before > 90


def test_nothing_is_done_where_an_accelerator_may_be(monkeypatch):
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: name == "jax_plugins")
    assert not memory.keep_freed_memory()


def test_nothing_is_done_on_other_systems(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
