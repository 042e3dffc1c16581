"""What a run tells: messages, metrics, progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from rfquant_jax.files import replacing

METRICS_FILE, LOG_FILE = "metrics.jsonl", "log.txt"


class RunLog:
    """Writes `log.txt`, `metrics.jsonl` and TensorBoard events into a workdir, and to the terminal.

    Args:
      workdir: an existing folder, or None to write nothing but to the terminal.
    """

    def __init__(self, workdir: Path | None):
        self._workdir = workdir
        self._board: SummaryWriter | None = None

    def info(self, message: str) -> None:
        """One message, to the terminal and, with the time, to the log file."""
        # Names of files may hold what is no character; they must not end a run.
        message = message.encode("utf-8", "backslashreplace").decode()
        tqdm.write(message)
        self._to_file(message)

    def metrics(self, task: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step of a task: a line of `metrics.jsonl` and TensorBoard scalars."""
        self.event(task, step, values)
        if self._workdir is not None:
            if self._board is None:
                self._board = SummaryWriter(str(self._workdir / "tensorboard"))
            for name, value in values.items():
                self._board.add_scalar(f"{task}/{name}", value, step)

    def event(self, task: str, step: int, content: Mapping) -> None:
        """Anything that happened at a step of a task: a line of `metrics.jsonl`."""
        if self._workdir is not None:
            with (self._workdir / METRICS_FILE).open("a") as file:
                file.write(json.dumps({"task": task, "step": step, **content}) + "\n")

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
        with tqdm(total=total, initial=done, desc=task, disable=None, leave=False) as bar:
            yield Progress(self, task, bar, total, done)

    def close(self) -> None:
        """Writes out what is still held back."""
        if self._board is not None:
            self._board.close()

    def _to_file(self, message: str) -> None:
        if self._workdir is not None:
            with (self._workdir / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")


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
    except ValueError:  # the last line of a killed run may be cut short
        return True
    return record["task"] == task and record["step"] > step
