"""Which of a few finalists to take: paired comparisons on images that did not propose them.

Configurations are compared image by image: what makes an image hard for all of them cancels out, so
that a few hundred images tell apart what counts of correct answers cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rfquant_jax.evaluate.evaluator import Outcomes

Z95 = 1.959964  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with its 95 % interval (1.96 standard errors each side)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Difference:
        """That of one difference for each image, float[N]; without images all is 0."""
        if not len(values):
            return cls(0.0, 0.0, 0.0)
        values = np.asarray(values, np.float64)
        mean = float(values.mean())
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        return cls(mean, mean - Z95 * error, mean + Z95 * error)


@dataclass(frozen=True)
class Gain:
    """What one configuration gains over another on the same images.

    Attributes:
      over: name of the other one.
      top1: in percentage points; positive is better.
      loss: in mean cross-entropy; negative is better.
    """

    over: str
    top1: Difference
    loss: Difference

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the cross-entropy excludes 0."""
        return self.loss.low > 0 or self.loss.high < 0

    def as_dict(self) -> dict:
        """As results have it."""
        return {
            "over": self.over,
            "top1": self.top1.mean,
            "top1_interval": [self.top1.low, self.top1.high],
            "cross_entropy": self.loss.mean,
            "cross_entropy_interval": [self.loss.low, self.loss.high],
        }


def gain(over: str, found: Outcomes, other: Outcomes, images: np.ndarray | None = None) -> Gain:
    """The paired differences `found - other`.

    Args:
      over: name of the other one.
      found, other: outcomes on the same images.
      images: bool[N], those that count; None: all.
    """
    kept = np.ones(len(found.labels), bool) if images is None else images
    right = 100.0 * (found.top1.astype(float) - other.top1.astype(float))
    return Gain(over, Difference.of(right[kept]), Difference.of(_losses(found, other)[kept]))


def _losses(found: Outcomes, other: Outcomes) -> np.ndarray:
    """Differences of cross-entropies; a loss that is not a number is worse than all others."""
    pair = np.stack([found.loss, other.loss]).astype(np.float64)
    finite = pair[np.isfinite(pair)]
    worst = finite.max() if len(finite) else 0.0
    pair = np.where(np.isfinite(pair), pair, worst + 1.0)
    return pair[0] - pair[1]


@dataclass(frozen=True)
class Finalist:
    """A configuration that competes for a budget.

    Attributes:
      name: where it comes from.
      configuration: int32[L, 2].
      unseen: bool[N], the confirmation images that it was not proposed on.
    """

    name: str
    configuration: np.ndarray
    unseen: np.ndarray


@dataclass(frozen=True)
class Choice:
    """The finalist with the least mean cross-entropy against the reference.

    Attributes:
      winner: the finalist.
      gains: of each finalist by name, over the reference, on the images it has not seen.
    """

    winner: Finalist
    gains: dict[str, Gain]


def select(
    finalists: Sequence[Finalist], outcomes: Mapping[str, Outcomes], reference: str
) -> Choice:
    """Chooses a finalist by its paired mean cross-entropy on images that did not propose it.

    Args:
      finalists: at least one; of equal ones the first wins.
      outcomes: of each finalist by name, on all confirmation images.
      reference: name of the finalist that all are compared with.
    """
    base = outcomes[reference]
    gains = {f.name: gain(reference, outcomes[f.name], base, f.unseen) for f in finalists}
    winner = min(finalists, key=lambda finalist: gains[finalist.name].loss.mean)
    return Choice(winner, gains)
