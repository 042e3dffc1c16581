"""Log messages, metrics and progress of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from tqdm import tqdm

from rfquant_jax.errors import printable
from rfquant_jax.runtime.extras import missing
from rfquant_jax.runtime.files import append, replacing

if TYPE_CHECKING:
    from rfquant_jax.report.tensorboard import Board

Charts = Mapping[str, Mapping[str, Sequence[str]]]

METRICS_FILE, LOG_FILE = "metrics.jsonl", "log.txt"


class RunLog:
    """Writes `log.txt`, `metrics.jsonl` and TensorBoard events to a workdir, and to the terminal.

    Args:
      workdir: an existing folder, or None for terminal output only.
      silent: no output at all; used by all processes except process 0.
    """

    def __init__(self, workdir: Path | None, *, silent: bool = False):
        self._workdir, self._silent = None if silent else workdir, silent
        self._others = workdir / f"log.{jax.process_index()}.txt" if silent and workdir else None
        self._board: Board | None = None
        self._without_board = False

    def info(self, message: str) -> None:
        """Logs a message to the terminal and, with a timestamp, to the log file."""
        # File names may contain invalid characters or terminal control codes.
        message = printable(message, keep="\n\t")
        if not self._silent:
            tqdm.write(message)
        self.to_file(message)

    def metrics(self, task: str, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars at a step of a task: a line of `metrics.jsonl` and TensorBoard scalars.

        Raises:
          OSError: they cannot be written.
        """
        self.event(task, step, values)
        self.curves(task, step, values)

    def curves(self, task: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step of a task as TensorBoard scalars alone, if tensorboardX is installed.

        Raises:
          OSError: they cannot be written.
        """
        if (board := self._opened_board()) is not None:
            board.add({f"{task}/{name}": value for name, value in values.items()}, step)

    def dashboard(self, charts: Charts) -> None:
        """Charts of several curves each, for TensorBoard's tab "Custom scalars".

        Args:
          charts: {category: {title: regular expressions of curves, "<task>/<name>"}}.

        Raises:
          OSError: they cannot be written.
        """
        if (board := self._opened_board()) is not None:
            board.arrange(charts)

    def _opened_board(self) -> Board | None:
        """The files of TensorBoard; None without a workdir or without tensorboardX."""
        if self._workdir is None or self._without_board:
            return None
        if self._board is None:
            self._open_board(self._workdir / "tensorboard")
        return self._board

    def _open_board(self, folder: Path) -> None:
        if lack := missing("tensorboardX"):
            self._without_board = True
            self.info(f"no curves for TensorBoard: {lack}")
            return
        from rfquant_jax.report.tensorboard import Board  # most tasks write no curves

        self._board = Board(folder)

    def event(self, task: str, step: int, content: Mapping) -> None:
        """Logs an event at a step of a task: a line of `metrics.jsonl`."""
        if self._workdir is not None:
            line = json.dumps({"task": task, "step": step, **content})
            append(self._workdir / METRICS_FILE, line + "\n")

    def rewind(self, task: str, step: int) -> None:
        """Removes metrics of this task after `step`, before a killed run resumes there."""
        path = self._workdir and self._workdir / METRICS_FILE
        if path is None or not path.exists():
            return
        kept = [line for line in path.read_text().splitlines() if not _is_later(line, task, step)]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    @contextmanager
    def progress(self, task: str, total: int | None, done: int = 0) -> Iterator[Progress]:
        """A progress bar on a terminal, plain lines elsewhere.

        Args:
          total: total number of units of work, or None if unknown.
          done: number of units already done.
        """
        hidden = self._silent or None  # None: disabled without a terminal
        with tqdm(total=total, initial=done, desc=task, disable=hidden, leave=False) as bar:
            yield Progress(self, task, bar, total, done)

    def close(self) -> None:
        """Closes all files."""
        if self._board is not None:
            self._board.close()

    def traceback(self, text: str) -> None:
        """Writes the traceback of a failure to the log file, or to a separate file of this process.

        Raises:
          OSError: it cannot be written.
        """
        if self._others is not None:
            append(self._others, f"{text}\n")
        self.to_file(text)

    def to_file(self, message: str) -> None:
        """Logs a message, with a timestamp, to the log file only.

        Raises:
          OSError: it cannot be written.
        """
        if self._workdir is not None:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            append(self._workdir / LOG_FILE, f"{now} {message}\n")


class Progress:
    """Progress of a task.

    The clock starts after the first unit of work, so that compilation time is not counted.
    """

    def __init__(self, log: RunLog, task: str, bar: tqdm, total: int | None, done: int):
        self._log, self._task, self._bar = log, task, bar
        self._total, self._done = total, done
        self._start: float | None = None
        self._first = done

    def advance(self) -> None:
        """Counts one more unit as done."""
        self._done += 1
        self._bar.update(1)
        if self._start is None:
            self._start, self._first = time.monotonic(), self._done

    def report(self, text: str, share: float | None = None) -> None:
        """Logs a line with the rate and the remaining time.

        Args:
          share: fraction of the work done, for tasks with unknown total.
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
    except (ValueError, RecursionError, LookupError, TypeError):  # truncated by a kill
        return True
