"""Scalars in TensorBoard's event files."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from rfquant_jax.runtime.files import naming


class Board:
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
