"""Clean stop on SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from rfquant_jax.errors import Interrupted

EXIT_CODE = 75  # EX_TEMPFAIL: a cluster may requeue the job, which then resumes


class StopSignal:
    """Records stop signals inside a `with` block.

    The first signal is only recorded; the work calls `check` at points where stopping loses
    nothing. A second signal ends the process at once.

    Attributes:
      requested: whether this process received a signal.
      agree: combines the flags of all processes.
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
        """Raises if a signal was received; a collective call, so one signal stops all processes.

        Raises:
          Interrupted: a signal was received.
        """
        if self.agree(self.requested):
            raise Interrupted

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
