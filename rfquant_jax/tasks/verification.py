"""The images on which exported files are compared with the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np

from rfquant_jax.data.loader import Pipeline
from rfquant_jax.data.reader import PADDING_LABEL
from rfquant_jax.data.sources import Source, Subset
from rfquant_jax.export.verify.reference import ReferenceModel
from rfquant_jax.export.verify.verify import LARGEST_BATCH
from rfquant_jax.quant.calibrate import Preprocess

Batch = dict[str, np.ndarray]


class VerificationImages:
    """Normalised held-out images.

    Args:
      source: the held-out images.
      pipeline: the data pipeline.
      preprocess: maps images to the network's input.
      batch_size: maximum batch size, the same for any number of images, so that one program runs
        them all.
      check: called before each batch.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        preprocess: Preprocess,
        batch_size: int,
        check: Callable[[], object] = lambda: None,
    ):
        self._source, self._pipeline, self._check = source, pipeline, check
        self._preprocess = jax.jit(preprocess)
        self._size = min(batch_size, len(source), LARGEST_BATCH)

    def __call__(self, limit: int) -> Iterator[Batch]:
        """At most `limit` images in batches {"image", "label"}; see `Pipeline.exact`."""
        # A fixed random subset, because files are sorted by class.
        chosen = np.random.default_rng(0).permutation(len(self._source))[:limit]
        for batch in self._pipeline.exact(Subset(self._source, np.sort(chosen)), self._size):
            self._check()
            image = np.asarray(self._preprocess(batch["image"]))
            yield {"image": image, "label": batch["label"]}


def accuracy(reference: ReferenceModel, batches: Iterator[Batch]) -> dict:
    """The evaluation's accuracy on verification images, as in `export.json`."""
    correct = images = 0
    for batch in batches:
        real = batch["label"] != PADDING_LABEL
        best = reference.logits(batch["image"])[real].argmax(axis=-1)
        correct += int((best == batch["label"][real]).sum())
        images += int(real.sum())
    return {"top1": 100 * correct / images, "images": images}
