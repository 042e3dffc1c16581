"""Accuracies of configurations on held-out images that no search proposed them on."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from rfquant_jax.data.sources import Part, split
from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.runtime.files import LineRecord
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.workdir import CONFIRMED_FILE, SEARCH_FOLDER


def search_parts(run: Run) -> tuple[Part, Part]:
    """The held-out images in two parts: to propose configurations on, and to confirm them on.

    A configuration that was picked because it did well on some images looks better on them than
    it is; only the others can tell whether it beats the uniform one.
    """
    data = run.config.data
    return split(
        run.data.held_out,
        run.config.search.confirm_fraction,
        data.split_seed + 1,
        field="search.confirm_fraction",
    )


class Confirmation:
    """Recalibrates and evaluates configurations; remembers what an earlier start found.

    Args:
      trained: the coupled network.

    Attributes:
      images: those to confirm on.
      origin: the checkpoint that the network comes from.
    """

    def __init__(self, run: Run, trained: networks.Trained):
        self._run, self._trained, self.origin = run, trained, trained.origin
        self._measure = Measure(run, trained.pure)
        _, self.images = search_parts(run)
        header = {"checkpoint": trained.origin, "images": len(self.images)}
        path = run.workdir / SEARCH_FOLDER / CONFIRMED_FILE
        self._record = LineRecord(path, header, _is_accuracy)
        self._known = {
            line["configuration"]: Accuracy(**line["accuracy"]) for line in self._record.lines
        }

    def __call__(self, configuration: np.ndarray) -> Accuracy:
        """Its accuracy on the images to confirm on.

        Raises:
          Interrupted: a signal came; what was found is kept.
        """
        self._run.stop.check()
        name = self._run.blueprint.space.encode(configuration)
        if name not in self._known:
            accuracy = self._measure.quantized(self.images, self._trained.params, configuration)
            self._record.append({"configuration": name, "accuracy": asdict(accuracy)})
            self._known[name] = accuracy
        return self._known[name]


def _is_accuracy(line: dict) -> bool:
    names = {"top1", "top5", "loss", "images"}
    accuracy = line.get("accuracy")
    known = isinstance(accuracy, dict) and set(accuracy) == names
    return known and isinstance(line.get("configuration"), str)


def figures(accuracy: Accuracy) -> dict:
    """An accuracy as results name it, with its 95 % interval."""
    return {
        "top1": accuracy.top1_percent,
        "top1_interval": list(accuracy.top1_interval),
        "cross_entropy": accuracy.mean_loss,
        "images": accuracy.images,
    }
