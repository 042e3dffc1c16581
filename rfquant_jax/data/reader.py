"""Reads and transforms images by index, with replacements for bad files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import grain
import numpy as np

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.sources import Source
from rfquant_jax.data.transforms import Transform
from rfquant_jax.errors import ArgumentError, UserError

Shape = tuple[int, int, int]
PADDING_LABEL = -1  # marks ignored images
ATTEMPTS = 100  # consecutive bad images before giving up


class Complaint(NamedTuple):
    """An image that cannot be read, with the reason."""

    name: str
    reason: str


class Reader(grain.transforms.RandomMap):
    """Reads, decodes and transforms one image.

    Unreadable images do not change the batch size, and batches depend only on the seed and the
    files.

    Args:
      source: the images.
      transform: transform of the images.
      blank: shape of the black image, labelled -1, that replaces an unreadable one, so that no
        image counts twice; None: it is replaced by a random image of the source.
    """

    def __init__(self, source: Source, transform: Transform, *, blank: Shape | None = None):
        self._source, self._transform, self._blank = source, transform, blank

    def random_map(self, index: int, rng: np.random.Generator) -> dict:
        """{"image": uint8[H, W, C], "label": int, "bad": list of complaints}."""
        bad: list[Complaint] = []
        place = index
        for attempt in range(1, ATTEMPTS + 1):
            name = f"image {place}"
            try:
                record = self._source[place]
                name = record.get("name", name)
                image = self._transform(record["image"], rng)
                return {"image": image, "label": record["label"], "bad": bad}
            except BadImageError as error:
                bad.append(Complaint(error.name or name, str(error)))
            if self._blank is not None:
                blank = np.zeros(self._blank, np.uint8)
                return {"image": blank, "label": PADDING_LABEL, "bad": bad}
            # Not the next one, because bad files tend to be adjacent.
            place = int(np.random.default_rng([index, attempt]).integers(len(self._source)))
        raise UserError(f"none of {ATTEMPTS} images can be read; {bad[0].name}: {bad[0].reason}")


class BadFiles:
    """Logs every skipped image of a data set once, and raises if there are too many.

    Args:
      total: number of images in the data set.
      fraction: fraction that may be bad.
      log: called with a message.
    """

    def __init__(self, total: int, fraction: float, log: Callable[[str], None]):
        self._total, self._fraction, self._log = total, fraction, log
        self._known: set[str] = set()

    def __call__(self, complaints: Sequence[Complaint]) -> None:
        """Adds bad images reported by readers.

        Raises:
          ArgumentError: more bad images than `max_bad_fraction` allows.
        """
        for name, reason in complaints:
            if name in self._known:
                continue
            self._known.add(name)
            self._log(f"skipped image {len(self._known)} of {self._total}: {name}: {reason}")
            if len(self._known) > self._fraction * self._total:
                rule = (
                    f"at most {int(self._fraction * self._total)} of {self._total} images may be "
                    f"bad, but {len(self._known)} are; the last: {name}: {reason}"
                )
                raise ArgumentError("max_bad_fraction", self._fraction, rule)
