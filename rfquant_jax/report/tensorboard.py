"""Scalars and chart layouts in TensorBoard's event files."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import custom_scalars, scalar

from rfquant_jax.runtime.files import naming

Charts = Mapping[str, Mapping[str, Sequence[str]]]


class Board:
    """Writes scalars and the layout of charts to an event file, in the calling thread.

    tensorboardX's own writer uses a thread. On a full disk that thread dies with a traceback, its
    queue fills up, and the run blocks forever.

    Args:
      folder: created if missing; a new event file is written to it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        with naming(folder):
            self._writer = RecordWriter(str(folder / name))
            self._write(file_version="brain.Event:2")

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars by name.

        Raises:
          OSError: the file cannot be written; the error names the folder.
        """
        with naming(self._folder):
            for name, value in values.items():
                self._write(step=step, summary=scalar(name, value))
            self._writer.flush()

    def arrange(self, charts: Charts) -> None:
        """Writes the layout of the tab "Custom scalars": {category: {title: names of curves}}."""
        layout = {
            category: {title: ["Multiline", list(curves)] for title, curves in of.items()}
            for category, of in charts.items()
        }
        with naming(self._folder):
            self._write(summary=custom_scalars(layout))
            self._writer.flush()

    def _write(self, **content) -> None:
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    def close(self) -> None:
        with suppress(OSError):  # everything is already written, or `add` has raised
            self._writer.close()
