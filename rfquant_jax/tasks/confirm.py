"""The images of a search, and the evaluation of finalists on the confirmation images."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from rfquant_jax.config.field_names import in_field_names
from rfquant_jax.config.search_algorithms import ON_PROFILE
from rfquant_jax.data.sources import Source, Subset, split
from rfquant_jax.errors import ConfigError
from rfquant_jax.evaluate.evaluator import Accuracy, Outcomes
from rfquant_jax.runtime.files import LineRecord
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import CONFIRMED_FILE, SEARCH_FOLDER

CROSS_BELOW = 2000  # held-out images; with fewer, both halves propose and both confirm


@dataclass(frozen=True)
class SearchImages:
    """The split of held-out images into proposing and confirming ones.

    The accuracy of a selected configuration is biased upwards on the images it was selected on.
    With many images, one part proposes and the other confirms. With few, each half proposes and the
    other half confirms, so that all images are used.

    Attributes:
      proposing: one part, or two halves.
      confirming: all images on which finalists are evaluated.
      unseen: for each proposing part bool[N], the confirming images outside of it.
    """

    proposing: tuple[Subset, ...]
    confirming: Source
    unseen: tuple[np.ndarray, ...]


@in_field_names()
def search_images(run: Run) -> SearchImages:
    """The images of the run's search.

    Raises:
      ConfigError: a part would be empty.
    """
    held_out, data = run.data.held_out, run.config.data
    crossed = run.config.search.algorithm == ON_PROFILE and len(held_out) < CROSS_BELOW
    if crossed and len(held_out) < 2:
        rule = f"must hold out two images or more for the search; it holds out {len(held_out)}"
        raise ConfigError("data.search_fraction", data.search_fraction, rule)
    fraction = 0.5 if crossed else run.config.search.confirm_fraction
    first, second = split(held_out, fraction, data.split_seed + 1, argument="confirm_fraction")
    if not crossed:
        return SearchImages((first,), second, (np.ones(len(second), bool),))
    everything = np.arange(len(held_out))
    outside = tuple(~np.isin(everything, part.indices) for part in (first, second))
    return SearchImages((first, second), held_out, outside)


class Confirmation:
    """Recalibrates and evaluates configurations; reuses results of an earlier start.

    Args:
      trained: the coupled network.
      images: evaluation images.

    Attributes:
      images: evaluation images.
      origin: the checkpoint of the network.
    """

    def __init__(self, run: Run, trained: networks.Trained, images: Source):
        self._run, self._trained, self.origin = run, trained, trained.origin
        self._measure, self.images = Measure(run, trained.functional), images
        header = {"checkpoint": trained.origin, "images": len(images), "content": "outcomes"}
        path = run.workdir / SEARCH_FOLDER / CONFIRMED_FILE
        self._record = LineRecord(path, header, self._is_outcome)
        self._known = {
            line["configuration"]: _outcomes(line["outcomes"]) for line in self._record.lines
        }

    def __call__(self, configuration: np.ndarray) -> Outcomes:
        """Per-image results of a configuration.

        Raises:
          Interrupted: a signal was received; finished results are kept.
        """
        self._run.stop.check()
        name = self._run.plan.space.encode(configuration)
        if name not in self._known:
            found = self._measure.outcomes(self.images, self._trained.params, configuration)
            self._record.append({"configuration": name, "outcomes": _text(found)})
            self._known[name] = found
        return self._known[name]

    def _is_outcome(self, line: dict) -> bool:
        try:
            found = _outcomes(line["outcomes"])
        except (LookupError, TypeError, ValueError):
            return False
        return isinstance(line.get("configuration"), str) and len(found.labels) == len(self.images)


def _text(outcomes: Outcomes) -> str:
    """Lossless encoding of outcomes in one line of text."""
    columns = [outcomes.loss, outcomes.top1, outcomes.top5, outcomes.labels]
    rows = np.stack([column.astype("<f4") for column in columns])
    return base64.b64encode(rows.tobytes()).decode()


def _outcomes(text: str) -> Outcomes:
    rows = np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(4, -1)
    loss, top1, top5, labels = rows
    return Outcomes(top1 > 0, top5 > 0, loss, labels.astype(np.int32))


def figures(accuracy: Accuracy) -> dict:
    """An accuracy with its 95 % interval, as in results."""
    return {
        "top1": accuracy.top1_percent,
        "top1_interval": list(accuracy.top1_interval),
        "cross_entropy": accuracy.mean_loss,
        "images": accuracy.images,
    }
