"""From the number of an image to the image prepared for the network, bad files included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import grain
import numpy as np

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.sources import Source
from rfquant_jax.data.transforms import Transform
from rfquant_jax.errors import ConfigError, UserError

Shape = tuple[int, int, int]
PADDING_LABEL = -1  # marks images that do not count
ATTEMPTS = 100  # bad images one after the other: hardly any good one is left


class Complaint(NamedTuple):
    """An image that cannot be read, and why."""

    name: str
    reason: str


class Reader(grain.transforms.RandomMap):
    """Reads, decodes and transforms one image.

    A batch always has its size and depends on nothing but the seed and the files, whatever cannot
    be read.

    Args:
      source: the images.
      transform: what they go through.
      blank: shape of the black image, labelled -1, that stands for one that cannot be read, so that
        no image counts twice; without it another image of the source, drawn at random, does.
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
            # Not the next one: bad files tend to be neighbours.
            place = int(np.random.default_rng([index, attempt]).integers(len(self._source)))
        raise UserError(f"none of {ATTEMPTS} images can be read; {bad[0].name}: {bad[0].reason}")


class BadFiles:
    """Names every image of a data set that was skipped, once, and stops when there are too many.

    Args:
      total: images in the data set.
      fraction: of them that may be bad.
      log: takes a message.
    """

    def __init__(self, total: int, fraction: float, log: Callable[[str], None]):
        self._total, self._fraction, self._log = total, fraction, log
        self._known: set[str] = set()

    def __call__(self, complaints: Sequence[Complaint]) -> None:
        """Takes what readers complain about.

        Raises:
          ConfigError: more images are bad than `config.data.max_bad_fraction` allows.
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
                raise ConfigError("data.max_bad_fraction", self._fraction, rule)
