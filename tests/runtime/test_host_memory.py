"""Freed memory: whether the process keeps it."""

import subprocess
import sys

import pytest

from rfquant_jax.runtime import host_memory

# Resident megabytes before 100 MB are used, with them, and after they were freed.
PROGRAM = """
import sys
import numpy as np
from rfquant_jax.runtime import host_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

if "keep" in sys.argv:
    assert host_memory.keep_freed_memory()
before = resident()
used = np.ones(100_000_000, np.uint8)
during = resident()
del used
print(before, during, resident())
"""

# Pages that the system has to map for a call of a program that needs 100 MB besides its arguments;
# the median, because the first few calls may still find the gaps too small.
CALLS = """
import resource
import sys
from rfquant_jax.runtime import host_memory

if "keep" in sys.argv:
    assert host_memory.keep_freed_memory()

import jax
import jax.numpy as jnp

product = jax.jit(lambda x, y: (jnp.sin(x) @ y).sum())
x, y = jnp.ones((5000, 5000)), jnp.ones((5000, 16))
mapped = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    product(x, y).block_until_ready()
    mapped.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(mapped)[4])
"""


def run(*arguments, program=PROGRAM):
    command = [sys.executable, "-c", program, *arguments]
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_a_compiled_program_finds_the_memory_of_its_last_call():
    (mapped,) = run(program=CALLS)
    assert mapped > 20_000  # of 4 KB each
    (mapped,) = run("keep", program=CALLS)
    assert mapped < 2_000


def test_nothing_is_done_where_an_accelerator_may_be(monkeypatch):
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: name == "jax_plugins")
    assert not host_memory.keep_freed_memory()


def test_nothing_is_done_on_other_systems(monkeypatch):
    monkeypatch.setattr(host_memory.sys, "platform", "darwin")
    assert not host_memory.keep_freed_memory()
