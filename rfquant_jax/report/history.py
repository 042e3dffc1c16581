"""A log in memory, for training from Python or in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from rfquant_jax.report.log import Progress, RunLog


class History(RunLog):
    """Passes messages to a function and stores metrics in a list.

    Args:
      log: called with each one-line message; None: messages are dropped.

    Attributes:
      records: records of metrics {"step", name: value}, in order.
      events: events of the scheduler and of skipped updates, in order.
    """

    def __init__(self, log: Callable[[str], object] | None):
        super().__init__(None, silent=True)
        self._log = log
        self.records: list[dict] = []
        self.events: list[dict] = []

    def info(self, message: str) -> None:
        if self._log is not None:
            self._log(message)

    def metrics(self, task: str, step: int, values: Mapping[str, float]) -> None:
        self.records.append({"step": step, **values})

    def event(self, task: str, step: int, content: Mapping) -> None:
        self.events.append({"step": step, **content})

    @contextmanager
    def progress(self, task: str, total: int | None, done: int = 0) -> Iterator[Progress]:
        """Reports progress as messages only: a progress bar would mix with a program's output."""
        with tqdm(total=total, initial=done, disable=True) as bar:
            yield Progress(self, task, bar, total, done)
