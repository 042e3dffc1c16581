"""Signals are remembered, and the second one ends the process."""

import os
import signal
import subprocess
import sys

import pytest

from rfquant_jax.errors import Interrupted
from rfquant_jax.runtime.signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Interrupted):
            stop.check()
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once():
    program = (
        "import os, signal, time\n"
        "from rfquant_jax.runtime.signals import StopSignal\n"
        "with StopSignal():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "still here\n"
    assert done.returncode == -signal.SIGTERM
