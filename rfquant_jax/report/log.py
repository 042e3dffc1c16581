"""What a run tells: messages, metrics, progress."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from tqdm import tqdm

from rfquant_jax.errors import printable
from rfquant_jax.runtime.files import append, naming, replacing

METRICS_FILE, LOG_FILE = "metrics.jsonl", "log.txt"


class RunLog:
    """Writes `log.txt`, `metrics.jsonl` and TensorBoard events into a workdir, and to the terminal.

    Args:
      workdir: an existing folder, or None to write nothing but to the terminal.
      silent: tell nothing at all, as all processes of a run but the first do.
    """

    def __init__(self, workdir: Path | None, *, silent: bool = False):
        self._workdir, self._silent = None if silent else workdir, silent
        self._others = workdir / f"log.{jax.process_index()}.txt" if silent and workdir else None
        self._board: _Board | None = None

    def info(self, message: str) -> None:
        """One message, to the terminal and, with the time, to the log file."""
        # Names of files may hold what is no character, or what a terminal obeys.
        message = printable(message, keep="\n\t")
        if not self._silent:
            tqdm.write(message)
        self.to_file(message)

    def metrics(self, task: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step of a task: a line of `metrics.jsonl` and TensorBoard scalars.

        Raises:
          OSError: they cannot be written.
        """
        self.event(task, step, values)
        self.curves(task, step, values)

    def curves(self, task: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step of a task as TensorBoard scalars alone.

        Raises:
          OSError: they cannot be written.
        """
        if self._workdir is not None:
            if self._board is None:
                self._board = _Board(self._workdir / "tensorboard")
            self._board.add({f"{task}/{name}": value for name, value in values.items()}, step)

    def event(self, task: str, step: int, content: Mapping) -> None:
        """Anything that happened at a step of a task: a line of `metrics.jsonl`."""
        if self._workdir is not None:
            line = json.dumps({"task": task, "step": step, **content})
            append(self._workdir / METRICS_FILE, line + "\n")

    def rewind(self, task: str, step: int) -> None:
        """Forgets what a killed run wrote of this task after `step`, from where it goes on."""
        path = self._workdir and self._workdir / METRICS_FILE
        if path is None or not path.exists():
            return
        kept = [line for line in path.read_text().splitlines() if not _is_later(line, task, step)]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    @contextmanager
    def progress(self, task: str, total: int | None, done: int = 0) -> Iterator[Progress]:
        """A bar with rate and time left on a terminal, plain lines elsewhere.

        Args:
          total: pieces of work in all, or None where nobody knows.
          done: of them before.
        """
        hidden = self._silent or None  # None: unless there is a terminal
        with tqdm(total=total, initial=done, desc=task, disable=hidden, leave=False) as bar:
            yield Progress(self, task, bar, total, done)

    def close(self) -> None:
        """Closes what is open."""
        if self._board is not None:
            self._board.close()

    def traceback(self, text: str) -> None:
        """What led to a failure, into the log file, or into one of this process's own.

        Raises:
          OSError: it cannot be written.
        """
        if self._others is not None:
            append(self._others, f"{text}\n")
        self.to_file(text)

    def to_file(self, message: str) -> None:
        """One message, with the time, to the log file alone.

        Raises:
          OSError: it cannot be written.
        """
        if self._workdir is not None:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            append(self._workdir / LOG_FILE, f"{now} {message}\n")


class _Board:
    """Scalars for TensorBoard.

    Written by whoever calls: the thread that tensorboardX's own writer has for it dies of a full
    disk with a traceback, and a queue that nobody empties any more then stops the run for good.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        with naming(folder):
            self._writer = RecordWriter(str(folder / name))
            self._write(file_version="brain.Event:2")

    def add(self, values: Mapping[str, float], step: int) -> None:
        with naming(self._folder):
            for name, value in values.items():
                self._write(step=step, summary=scalar(name, value))
            self._writer.flush()

    def _write(self, **content) -> None:
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    def close(self) -> None:
        with suppress(OSError):  # all that was added is written, or `add` has said why not
            self._writer.close()


class Progress:
    """How far a task is.

    The clock starts with the first piece of work done, so that compiling does not count as slow.
    """

    def __init__(self, log: RunLog, task: str, bar: tqdm, total: int | None, done: int):
        self._log, self._task, self._bar = log, task, bar
        self._total, self._done = total, done
        self._start: float | None = None
        self._first = done

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._bar.update(1)
        if self._start is None:
            self._start, self._first = time.monotonic(), self._done

    def report(self, text: str, share: float | None = None) -> None:
        """A line with the rate and the time left.

        Args:
          share: of all work that is done, for tasks whose total is not known.
        """
        elapsed = time.monotonic() - (self._start or time.monotonic())
        done = self._done - self._first
        rate = done / elapsed if done and elapsed > 0 else None
        count = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        pace = "" if rate is None else f" ({rate:.3g}/s, {self._left(elapsed, rate, share)})"
        self._log.info(f"{self._task} {count}: {text}{pace}")

    def _left(self, elapsed: float, rate: float, share: float | None) -> str:
        if self._total is not None:
            return f"{(self._total - self._done) / rate:.0f} s left"
        if not share:
            return "time left unknown"
        return f"about {elapsed * (1 - share) / share:.0f} s left"


def _is_later(line: str, task: str, step: int) -> bool:
    try:
        record = json.loads(line)
        return record["task"] == task and record["step"] > step
    except (ValueError, RecursionError, LookupError, TypeError):  # such as one cut short by a kill
        return True
