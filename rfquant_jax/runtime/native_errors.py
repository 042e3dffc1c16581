"""Replaces the output of JAX's libraries about a lost process by one line.

When a process is lost, JAX terminates the others from one of its own threads and prints pages about
it, which Python code cannot prevent. So a small filter program reads the libraries' standard error
(Python's output does not pass through it). It copies lines until the libraries give up, and then
names the lost process and its host. A message of our own beforehand cannot: only the libraries'
last lines say which process it was, as a number between stack traces.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import BinaryIO

_ENTRY = re.compile(rb"^[IWEF]\d{4} [\d:.]+ +\d+ ([\w.]+):\d+\]")  # start of an absl log message
_ABOUT_PROCESSES = (
    b"coordination_service.cc",
    b"coordination_service_agent.cc",
    b"preemption_sync_manager.cc",
    b"client.h",
)
_GIVES_UP = b"Terminating process because"
_UNHEALTHY = re.compile(rb"unhealthy[^\n]*:\n((?:[^\n]*\d\n)+)")  # followed by a line for each
_PEERS = b"\x1epeers "  # prefix of a line from `name_peers`


class Filter:
    """Starts the filter on this process's standard error.

    Args:
      timeout: seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, timeout: int):
        self._terminal = os.dup(2)
        self._program = subprocess.Popen(
            [sys.executable, "-I", __file__, str(timeout)],
            stdin=subprocess.PIPE,
            stdout=self._terminal,
            start_new_session=True,  # ignores Ctrl-C
        )
        sys.stderr.flush()
        sys.stderr = os.fdopen(self._terminal, "w", buffering=1, closefd=False)
        os.dup2(self._program.stdin.fileno(), 2)

    def name_peers(self, hosts: list[str]) -> None:
        """Sends the host name of each process to the filter."""
        os.write(2, _PEERS + " ".join(hosts).encode() + b"\n")

    def stop(self) -> None:
        """Stops the filter."""
        os.dup2(self._terminal, 2)
        self._program.stdin.close()
        self._program.wait()


def pass_on(source: BinaryIO, terminal: BinaryIO, timeout: str) -> None:
    """Copies lines until the libraries give up, except those about processes."""
    held, hosts, holding = b"", [], False
    for line in iter(source.readline, b""):
        if line.startswith(_PEERS):
            hosts = line[len(_PEERS) :].decode().split()
            continue
        if b"add_port.cc" in line:  # it crashes next
            source.read()
            terminal.write(b"error: the port of the coordinator is in use, by another run?\n")
            return
        if entry := _ENTRY.match(line):
            holding = entry[1] in _ABOUT_PROCESSES
        if holding:
            held += line
        elif not line.startswith(b"[Gloo] Rank"):
            terminal.write(line)
            terminal.flush()
        if _GIVES_UP in line:
            rest = held + source.read()
            terminal.write(_verdict(rest, hosts, timeout).encode() + b"\n")
            return


def _verdict(text: bytes, hosts: list[str], timeout: str) -> str:
    """The error message."""
    if not hosts:
        return "error: the processes of this run did not connect in time; are all of them running?"
    found = _UNHEALTHY.search(text)
    # If no process is named, the coordinator, process 0, did not respond.
    lost = [int(number) for number in re.findall(rb"(\d+)\n", found[1])] if found else [0]
    names = [f"{n} (on {hosts[n]})" if n < len(hosts) else str(n) for n in lost]
    which = f"process {names[0]}" if len(lost) == 1 else f"processes {', '.join(names)}"
    return (
        f"error: lost {which} of {len(hosts)}: it exited, or did not respond for {timeout} s; "
        "checkpoints written before are intact: restart all processes to resume"
    )


if __name__ == "__main__":
    pass_on(sys.stdin.buffer, sys.stdout.buffer, sys.argv[1])
