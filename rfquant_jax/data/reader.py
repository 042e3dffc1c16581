"""From the number of an image to the image prepared for the network, bad files included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grain
import numpy as np

from rfquant_jax.data.decode import BadImageError
from rfquant_jax.data.sources import Source
from rfquant_jax.data.transforms import Transform
from rfquant_jax.errors import ConfigError, UserError

PADDING_LABEL = -1  # marks images that do not count
MAX_IN_A_ROW = 100  # bad files next to each other: no image is in reach


class Reader(grain.transforms.RandomMap):
    """Reads, decodes and transforms one image.

    In place of an image that cannot be read comes the next one of the source that can, so that a
    batch always has its size and depends on nothing but the files.

    Args:
      source: the images.
      transform: what they go through.
      exact: whether a substitute is labelled -1, so that no image counts twice.
    """

    def __init__(self, source: Source, transform: Transform, *, exact: bool):
        self._source, self._transform, self._exact = source, transform, exact

    def random_map(self, index: int, rng: np.random.Generator) -> dict:
        """{"image": uint8[H, W, C], "label": int, "bad": list of complaints}."""
        bad: list[str] = []
        for offset in range(min(MAX_IN_A_ROW, len(self._source))):
            place = (index + offset) % len(self._source)
            name = f"image {place}"
            try:
                record = self._source[place]
                name = record.get("name", name)
                image = self._transform(record["image"], rng)
            except BadImageError as error:
                reason = str(error)
                bad.append(reason if reason.startswith(name) else f"{name}: {reason}")
                continue
            label = PADDING_LABEL if bad and self._exact else record["label"]
            return {"image": image, "label": label, "bad": bad}
        raise UserError(f"none of {len(bad)} images in a row can be read; the first: {bad[0]}")


class BadFiles:
    """Names every image of a data set that was skipped, once, and stops when there are too many.

    Args:
      total: images in the data set.
      fraction: of them that may be bad.
      say: takes a message.
    """

    def __init__(self, total: int, fraction: float, say: Callable[[str], None]):
        self._total, self._fraction, self._say = total, fraction, say
        self._known: set[str] = set()

    def __call__(self, complaints: Sequence[str]) -> None:
        """Takes what readers complain about.

        Raises:
          ConfigError: more images are bad than `config.data.max_bad_fraction` allows.
        """
        for complaint in complaints:
            if complaint in self._known:
                continue
            self._known.add(complaint)
            self._say(f"skipped image {len(self._known)} of {self._total}: {complaint}")
            if len(self._known) > self._fraction * self._total:
                rule = (
                    f"at most {int(self._fraction * self._total)} of {self._total} images may be "
                    f"bad, and now {len(self._known)} are; the last: {complaint}"
                )
                raise ConfigError("data.max_bad_fraction", self._fraction, rule)
