"""Compares exported models with the evaluation, by layer and by prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rfquant_jax.data.reader import PADDING_LABEL
from rfquant_jax.export.ir.graph import Node
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.ir.runtime import accumulate, finish, quantize, walk
from rfquant_jax.export.verify.reference import ReferenceModel


class CodesOf(Protocol):
    """A function that computes logits and the input codes of each layer; see `ReferenceModel`.

    The codes of both inputs of a residual addition are stacked behind the axis of the images.
    """

    dtype: type

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]: ...


Predict = Callable[[np.ndarray], np.ndarray]  # normalised images [N, H, W, C] to logits


def _largest(values: np.ndarray) -> float:
    """The largest magnitude; infinite if any value is NaN, because comparisons ignore NaN."""
    found = float(np.abs(values).max(initial=0.0))
    return found if np.isfinite(found) else np.inf


@dataclass
class CodeCount:
    """Comparison of the input codes of one layer.

    Attributes:
      different: number of differing codes.
      total: number of codes.
      off_tie: for values with different codes, the largest distance in steps from the rounding tie
        between these codes.
    """

    different: int = 0
    total: int = 0
    off_tie: float = 0.0

    def add(self, values: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Counts the codes of `values`, which are in units of the step size."""
        differing = ours != theirs
        self.total += ours.size
        self.different += int(differing.sum())
        if differing.any():
            middle = (ours[differing] + theirs[differing]) / 2
            self.off_tie = max(self.off_tie, _largest(values[differing] - middle))


@dataclass
class CodeComparison:
    """Comparison of a model that was fed the evaluation's codes layer by layer.

    Attributes:
      layers: counts by name, for each layer with a quantized input.
      logits: the largest difference of a logit, relative to the evaluation's largest logit.
    """

    layers: dict[str, CodeCount]
    logits: float = 0.0

    @property
    def total(self) -> dict:
        """The total counts, and the largest fraction of differences in a layer."""
        counts = list(self.layers.values())
        shares = [c.different / c.total for c in counts if c.total]
        return {
            "different": sum(c.different for c in counts),
            "total": sum(c.total for c in counts),
            "off_tie": max((c.off_tie for c in counts), default=0.0),
            "largest_share": max(shares, default=0.0),
        }


def compare_codes(
    model: IntegerModel, reference: CodesOf, batches: Iterable[Mapping[str, np.ndarray]]
) -> CodeComparison:
    """Feeds every layer the evaluation's codes and counts differences in the next codes.

    Args:
      model: the model, with scales in the reference's dtype.
      reference: the evaluation, or the runner of a file in another format.
      batches: {"image": normalised images, "label"}; label -1 marks ignored images.
    """
    counts = {name: CodeCount() for name, data in model.layers.items() if data.quantizes_input}
    largest = difference = 0.0
    for batch in batches:
        real = batch["label"] != PADDING_LABEL
        expected, codes = reference(batch["image"])
        expected, codes = expected[real], {name: found[real] for name, found in codes.items()}
        images = batch["image"][real].astype(reference.dtype)

        def layer(node: Node, *inputs: np.ndarray, codes=codes) -> np.ndarray:
            data, dtype = model.layers[node.layer], inputs[0].dtype
            taken = inputs
            if data.quantizes_input:
                held = codes[node.layer].astype(dtype)
                taken = [held] if len(inputs) == 1 else np.moveaxis(held, 1, 0)
                for x, found in zip(inputs, taken, strict=True):
                    values = x / dtype.type(data.input_step)
                    counts[node.layer].add(values, quantize(data, x), found)
            return finish(data, accumulate(node, data, *taken), dtype)

        logits = walk(model.graph, images, layer, model.constants, np)
        largest = max(largest, _largest(expected))
        difference = max(difference, _largest(logits - expected))
    return CodeComparison(counts, difference / largest if difference else 0.0)


@dataclass
class Agreement:
    """Agreement of one format with the evaluation.

    Attributes:
      images: number of images compared.
      correct: number that this format classifies correctly.
      equal: number classified as by the evaluation.
      equal_exact: number classified as by the evaluation in float64. If float32 rounds a value near
        a tie to another code, later codes change as well. Where the float32 and float64 evaluations
        disagree, no format can agree with both.
      largest_difference: largest difference of a logit.
    """

    images: int = 0
    correct: int = 0
    equal: int = 0
    equal_exact: int = 0
    largest_difference: float = 0.0

    def add(
        self, logits: np.ndarray, expected: np.ndarray, exact: np.ndarray, labels: np.ndarray
    ) -> None:
        """Counts one batch; `expected` and `exact` are the evaluation's logits."""
        best = logits.argmax(axis=-1)
        self.images += len(labels)
        self.correct += int((best == labels).sum())
        self.equal += int((best == expected.argmax(axis=-1)).sum())
        self.equal_exact += int((best == exact.argmax(axis=-1)).sum())
        difference = _largest(logits.astype(np.float64) - expected)
        self.largest_difference = max(self.largest_difference, difference)

    def as_dict(self) -> dict:
        """The entries in results."""
        return {
            "images": self.images,
            "top1": 100 * self.correct / self.images,
            "equal_percent": 100 * self.equal / self.images,
            "equal_exact_percent": 100 * self.equal_exact / self.images,
            "largest_difference": self.largest_difference,
        }


@dataclass
class Comparison:
    """The agreement of all formats of one configuration with the evaluation."""

    evaluation: Agreement = field(default_factory=Agreement)
    formats: dict[str, Agreement] = field(default_factory=dict)


def compare_predictions(
    reference: ReferenceModel,
    exact: ReferenceModel,
    formats: Mapping[str, Predict],
    batches: Iterable[Mapping[str, np.ndarray]],
) -> Comparison:
    """Runs every format and the evaluation on the same images.

    Args:
      reference, exact: the evaluation in float32 and in float64.
      formats: prediction functions by name.
      batches: {"image": normalised images, "label"}; label -1 marks ignored images.
    """
    found = Comparison(formats={name: Agreement() for name in formats})
    for batch in batches:
        real = batch["label"] != PADDING_LABEL
        images, labels = batch["image"], batch["label"][real]
        expected, certain = (network.logits(images)[real] for network in (reference, exact))
        found.evaluation.add(expected, expected, certain, labels)
        for name, predict in formats.items():
            found.formats[name].add(predict(images)[real], expected, certain, labels)
    return found
