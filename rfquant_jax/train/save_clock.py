"""Timer for periodic checkpoints."""

from __future__ import annotations

import time


class SaveClock:
    """Timer for periodic checkpoints.

    Args:
      minutes: interval between checkpoints; 0 disables them.
    """

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Restarts the interval after a checkpoint."""
        self._since = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the interval is over."""
        return 0 < self._seconds <= time.monotonic() - self._since
