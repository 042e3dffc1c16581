"""The parent process of step_worker.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.step_settings import StepTask
from benchmarks.step_worker import Kind

_ROOT = Path(__file__).resolve().parents[1]


class Worker:
    """A worker process that runs steps of one kind, and is idle between them.

    Args:
      cache: folder of the compilation cache; empty: no cache.
    """

    def __init__(self, kind: Kind, task: StepTask, cache: str = ""):
        self.kind = kind
        asked = json.dumps({"kind": asdict(kind), "task": asdict(task), "cache": cache})
        # Several processes share an accelerator, so none may preallocate its memory.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.step_worker", asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=environment,
        )

    def answer(self) -> dict:
        """The next answer of the worker.

        Raises:
          SystemExit: the worker has exited.
        """
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise SystemExit(f"{self.kind.name}: its process ended with code {code}")
        return json.loads(line)

    def ask(self, what: str) -> dict:
        """The answer to a line of input."""
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        """Stops the worker."""
        self._process.kill()
        self._process.communicate()


def measured(kinds: Sequence[Kind], task: StepTask, rounds: int, cache: str = "") -> list[dict]:
    """The answers of each kind's worker, with the seconds of interleaved steps.

    Args:
      cache: folder of the compilation cache; empty: no cache.
    """
    workers: list[Worker] = []
    try:
        told = []
        for kind in kinds:
            workers.append(Worker(kind, task, cache))
            told.append(workers[-1].answer() | workers[-1].answer() | {"seconds": []})
            print(f"{kind.name}: ready after {told[-1]['first_s']:.1f} s", flush=True)
        for _ in range(rounds):
            for worker, own in zip(workers, told, strict=True):
                own["seconds"].append(worker.ask("step")["seconds"])
        for worker, own in zip(workers, told, strict=True):
            own |= worker.ask("memory")
    finally:
        for worker in workers:
            worker.stop()
    return told


def starts(kind: Kind, task: StepTask) -> Mapping[str, float]:
    """Seconds from process start to the end of the first step, without and with a cache."""
    with tempfile.TemporaryDirectory() as cache:
        return {name: _start(kind, task, cache) for name in ("first_start_s", "second_start_s")}


def _start(kind: Kind, task: StepTask, cache: str) -> float:
    begin = time.perf_counter()
    worker = Worker(kind, task, cache)
    try:
        worker.answer()
        return time.perf_counter() - begin
    finally:
        worker.stop()
