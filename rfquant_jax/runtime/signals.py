"""Stopping on SIGTERM or Ctrl-C where nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from rfquant_jax.errors import Interrupted

EXIT_CODE = 75  # EX_TEMPFAIL: a cluster may requeue the job, and it goes on from where it was


class StopSignal:
    """Remembers, inside a `with` block, that a signal asked the run to stop.

    The first signal is only remembered: whoever works calls `check` where stopping loses nothing.
    A second one ends the process at once.

    Attributes:
      requested: whether a signal came to this process.
      agree: makes of what this process wants what all processes of the run do.
    """

    def __init__(self) -> None:
        self.requested = False
        self.agree: Callable[[bool], bool] = bool
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Every process of a run has to call it: a signal to one of them stops them all.

        Raises:
          Interrupted: a signal came.
        """
        if self.agree(self.requested):
            raise Interrupted

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
