"""What C code prints reaches standard output, but not from inside `silenced`."""

import subprocess
import sys

import pytest

# Python and C each have a buffer of their own, which a pipe or a file makes them fill.
BEGIN = """
import ctypes, os, sys
from rfquant_jax.runtime.native_output import silenced
c = ctypes.CDLL(None)
"""
WITHIN = """
print("python before", flush=False)
c.printf(b"c before\\n")
with silenced():
    c.printf(b"hidden buffered\\n")
    os.write(1, b"hidden at once\\n")
c.printf(b"c after\\n")
c.fflush(None)
print("python after")
"""
RAISING = """
try:
    with silenced():
        c.printf(b"hidden\\n")
        raise KeyError("inside")
except KeyError as error:
    c.printf(b"caught\\n")
"""
WITHOUT = """
before = len(os.listdir("/proc/self/fd"))
with silenced():
    os.write(2, b"ran")
assert len(os.listdir("/proc/self/fd")) == before
"""


def run(script, *, launcher=(), **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [*launcher, sys.executable, "-c", BEGIN + script]
    return subprocess.run(command, timeout=100, **options)


def test_only_what_is_printed_outside_comes_out():
    done = run(WITHIN)
    assert done.stderr == b""
    assert done.stdout.splitlines() == [b"python before", b"c before", b"c after", b"python after"]


def test_a_redirected_output_stays_redirected(tmp_path):
    path = tmp_path / "out.txt"
    with path.open("wb") as file:
        done = run(WITHIN, stdout=file)
    assert done.stderr == b""
    assert path.read_text().split("\n") == [
        "python before",
        "c before",
        "c after",
        "python after",
        "",
    ]


def test_an_exception_passes_and_the_output_comes_back():
    done = run(RAISING)
    assert (done.stdout, done.stderr) == (b"caught\n", b"")


@pytest.mark.parametrize(
    "closing",
    ["os.close(1)", "sys.stdout.close()"],
)
def test_an_output_that_was_closed_is_no_error(closing):
    done = run(f"{closing}\n{WITHOUT}\nos._exit(0)")
    assert (done.returncode, done.stderr) == (0, b"ran")


def test_a_file_in_the_place_of_a_missing_output_is_left_alone(tmp_path):
    """Started without standard output, the first file that is opened is descriptor 1."""
    path = tmp_path / "log.txt"
    script = f"""
descriptor = os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT)
with silenced():
    os.write(descriptor, b"kept")
os.write(2, str(descriptor).encode())
"""
    # A shell closes it: preexec_fn would fork, of which JAX warns where an earlier test started it.
    done = run(script, launcher=["sh", "-c", 'exec "$@" >&-', "-"])
    assert (done.returncode, done.stderr, path.read_bytes()) == (0, b"1", b"kept")
