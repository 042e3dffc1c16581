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


def gain(
    over: str, pairs: Sequence[tuple[Outcomes, Outcomes]], images: Sequence[np.ndarray]
) -> Gain:
    """Paired differences `found - other`, pooled over several pairs of configurations.

    Args:
      over: name of the other one.
      pairs: (found, other) outcomes on the same images.
      images: of each pair bool[N], the images to compare on; of these, images labelled -1 do not
        count.
    """
    images = [kept & found.counted for kept, (found, _) in zip(images, pairs, strict=True)]
    top1 = [100.0 * (f.top1.astype(float) - o.top1.astype(float)) for f, o in pairs]
    losses = [_losses(found, other) for found, other in pairs]

    def pooled(values: list[np.ndarray]) -> Difference:
        return Difference.of(
            np.concatenate([v[kept] for v, kept in zip(values, images, strict=True)])
        )

    return Gain(over, pooled(top1), pooled(losses))


def on_all(over: str, found: Outcomes, other: Outcomes) -> Gain:
    """The paired differences of two configurations on all images."""
    return gain(over, [(found, other)], [np.ones(len(found.labels), bool)])


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
    """What was selected for a budget.

    Attributes:
      winner: the finalist.
      gains: over each uniform finalist by name, on images that did not propose: of the proposals,
        pooled over the halves of the images, or of a uniform winner.
    """

    winner: Finalist
    gains: dict[str, Gain]


def select(
    proposals: Sequence[Finalist], uniform: Sequence[Finalist], outcomes: Mapping[str, Outcomes]
) -> Choice:
    """Takes the best proposal, unless a uniform configuration has the better mean.

    Proposals of one half of the images are compared on the other half. What they gain over a
    uniform configuration is pooled over the halves: that is what searching gains, on images that
    the search did not see.

    Args:
      proposals: at least one; of equal ones the first wins.
      uniform: configurations that no image proposed; may be none.
      outcomes: of each finalist by name, on all confirmation images.
    """
    base = outcomes[(uniform or proposals)[0].name]

    def loss(finalist: Finalist, images: np.ndarray) -> float:
        pairs = [(outcomes[finalist.name], base)]
        return gain("", pairs, [images]).loss.mean

    champions: dict[bytes, Finalist] = {}
    for finalist in sorted(proposals, key=lambda finalist: loss(finalist, finalist.unseen)):
        champions.setdefault(finalist.unseen.tobytes(), finalist)
    leaders = list(champions.values())
    gains = {
        other.name: gain(
            other.name,
            [(outcomes[leader.name], outcomes[other.name]) for leader in leaders],
            [leader.unseen for leader in leaders],
        )
        for other in uniform
    }
    if all(found.loss.mean < 0 for found in gains.values()):
        return Choice(leaders[0], gains)
    everything = np.ones(len(base.labels), bool)
    best = min(uniform, key=lambda finalist: loss(finalist, everything))
    over = {f.name: on_all(f.name, outcomes[best.name], outcomes[f.name]) for f in uniform}
    return Choice(best, over)
