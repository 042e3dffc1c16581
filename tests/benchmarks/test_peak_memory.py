"""The peak of a process's memory: what counts and what does not."""

import subprocess
import sys

import pytest

# Peaks in MB: without knowing of arrays; with 100 MB of them among 300 that were there before.
PROGRAM = """
import numpy as np
from benchmarks.peak_memory import HostPeak

def work():
    np.ones(50_000_000, np.uint8)

plain, knowing = HostPeak(), HostPeak(lambda: 100_000_000)
held = np.ones(300_000_000, np.uint8)
for peak in plain, knowing:
    peak.restart()
    work()
    print(None if peak.bytes() is None else peak.bytes() / 1e6, peak.programs / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_no_array_counts_unless_arrays_are_known():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    if lines[0][0] == "None":
        pytest.skip("/proc/self/clear_refs cannot be written")
    (plain, none), (knowing, programs) = [[float(value) for value in line] for line in lines]
    assert plain == pytest.approx(350, abs=15)
    assert none == 0
    assert knowing == pytest.approx(150, abs=15)
    assert programs == pytest.approx(200, abs=15)
