"""The peak of a process's memory: what counts and what does not."""

import subprocess
import sys

import pytest

# Peaks in MB: without knowing of arrays; with 100 MB of them among 300 that were there before.
ARRAYS = """
import numpy as np
from benchmarks.peak_memory import HostPeak

def work():
    np.ones(50_000_000, np.uint8)

plain, knowing = HostPeak(), HostPeak(lambda: 100_000_000)
held = np.ones(300_000_000, np.uint8)
for peak in plain, knowing:
    peak.restart()
    work()
    print(None if peak.bytes() is None else peak.bytes() / 1e6)
"""
# A block is freed and a small one put into its place: the next one does not fit any more. That
# twice, of 60 MB each; the second time what is freed is given back.
GAPS = """
import ctypes
from benchmarks.peak_memory import HostPeak, return_what_is_freed
from rfquant_jax.runtime.host_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def block(size):
    made = libc.malloc(size)
    ctypes.memset(made, 1, size)
    return made

if not keep_freed_memory():
    raise SystemExit("not glibc")
peak = HostPeak()
for _ in range(2):
    peak.restart()
    first, behind = block(60_000_000), block(1_000_000)
    libc.free(first)
    small = block(10_000_000)
    libc.free(block(60_000_000))
    libc.free(small)
    libc.free(behind)
    print(None if peak.bytes() is None else peak.bytes() / 1e6)
    return_what_is_freed()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("program", "expected"), [(ARRAYS, [350, 150]), (GAPS, [120, 70])])
def test_what_counts(program, expected):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    if lines[0] == "None":
        pytest.skip("/proc/self/clear_refs cannot be written")
    assert [float(line) for line in lines] == pytest.approx(expected, abs=15)
