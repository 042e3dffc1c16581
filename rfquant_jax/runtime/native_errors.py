"""What JAX's libraries print when a process of a run is lost, said in one line.

JAX ends a process, from a thread of its own, once another one is lost, and prints pages about it.
No code of that process can prevent it. So a small program stands between it and the terminal: it
lets through what the libraries write (Python's own output does not pass here) until they give up,
and then names the lost process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import BinaryIO

_ENTRY = re.compile(rb"^[IWEF]\d{4} [\d:.]+ +\d+ ([\w.]+):\d+\]")  # how absl begins a message
_ABOUT_PROCESSES = (
    b"coordination_service.cc",
    b"coordination_service_agent.cc",
    b"preemption_sync_manager.cc",
    b"client.h",
)
_GIVES_UP = b"Terminating process because"
_UNHEALTHY = re.compile(rb"unhealthy[^\n]*:\n((?:[^\n]*\d\n)+)")  # and a line for each
_PEERS = b"\x1epeers "  # begins a line from `name_peers`


class Filter:
    """Puts the program between this process's libraries and its standard error.

    Args:
      timeout: seconds without a sign of life after which a process counts as lost.
    """

    def __init__(self, timeout: int):
        self._terminal = os.dup(2)
        self._program = subprocess.Popen(
            [sys.executable, "-I", __file__, str(timeout)],
            stdin=subprocess.PIPE,
            stdout=self._terminal,
            start_new_session=True,  # a Ctrl-C is not for it
        )
        sys.stderr.flush()
        sys.stderr = os.fdopen(self._terminal, "w", buffering=1, closefd=False)
        os.dup2(self._program.stdin.fileno(), 2)

    def name_peers(self, hosts: list[str]) -> None:
        """Tells on which host each process runs."""
        os.write(2, _PEERS + " ".join(hosts).encode() + b"\n")

    def stop(self) -> None:
        """Takes the program out again."""
        os.dup2(self._terminal, 2)
        self._program.stdin.close()
        self._program.wait()


def pass_on(source: BinaryIO, terminal: BinaryIO, timeout: str) -> None:
    """Copies lines until the libraries give up, but for what they say about processes."""
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
    """The one line."""
    if not hosts:
        return "error: the processes of this run did not connect in time; are all of them running?"
    found = _UNHEALTHY.search(text)
    # Where nobody is named, the coordinator did not answer: that is process 0.
    lost = [int(number) for number in re.findall(rb"(\d+)\n", found[1])] if found else [0]
    names = [f"{n} (on {hosts[n]})" if n < len(hosts) else str(n) for n in lost]
    which = f"process {names[0]}" if len(lost) == 1 else f"processes {', '.join(names)}"
    return (
        f"error: lost {which} of {len(hosts)}: it exited, or did not respond for {timeout} s; "
        "checkpoints written before are intact: restart all processes to resume"
    )


if __name__ == "__main__":
    pass_on(sys.stdin.buffer, sys.stdout.buffer, sys.argv[1])
