"""Selection among finalists by paired comparisons on images that the search did not use.

Configurations are compared image by image, so that the difficulty of an image cancels out. A few
hundred images then resolve differences that accuracies do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        """The interval of one difference per image, float[N]; zeros without images."""
        if not len(values):
            return cls(0.0, 0.0, 0.0)
        values = np.asarray(values, np.float64)
        mean = float(values.mean())
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        return cls(mean, mean - Z95 * error, mean + Z95 * error)


@dataclass(frozen=True)
class Gain:
    """Gain of one configuration over another on the same images.

    Attributes:
      over: name of the other configuration.
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
        """The entries in results."""
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
      over: name of the other configuration.
      pairs: (found, other) outcomes on the same images.
      images: for each pair bool[N], the images to compare on; images labelled -1 are ignored.
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
    """Differences of cross-entropies; NaN is worse than any other loss."""
    pair = np.stack([found.loss, other.loss]).astype(np.float64)
    finite = pair[np.isfinite(pair)]
    worst = finite.max() if len(finite) else 0.0
    pair = np.where(np.isfinite(pair), pair, worst + 1.0)
    return pair[0] - pair[1]


@dataclass(frozen=True)
class Finalist:
    """A configuration that competes for a budget.

    Attributes:
      name: its origin.
      configuration: int32[L, 2].
      unseen: bool[N], confirmation images that did not propose it.
    """

    name: str
    configuration: np.ndarray
    unseen: np.ndarray


@dataclass(frozen=True)
class Choice:
    """The result of the selection for a budget.

    Attributes:
      winner: the selected finalist.
      gains: gains over each uniform finalist by name, on images that did not propose: gains of the
        proposals, pooled over the halves of the images, or of a uniform winner.
    """

    winner: Finalist
    gains: dict[str, Gain]


def select(
    proposals: Sequence[Finalist], uniform: Sequence[Finalist], outcomes: Mapping[str, Outcomes]
) -> Choice:
    """Selects the best proposal, unless a uniform configuration has a better mean.

    Proposals from one half of the images are compared on the other half. Their gains over a uniform
    configuration are pooled over the halves: this is the gain of searching on unseen images.

    Args:
      proposals: at least one; ties go to the first.
      uniform: configurations not proposed by any image; may be empty.
      outcomes: outcomes of each finalist by name, on all confirmation images.
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


@dataclass(frozen=True)
class Confirmed:
    """The winner of a budget, and what it was confirmed by.

    Attributes:
      winner: the selected finalist.
      outcomes: per-image results of each finalist by name.
      over_uniform: its gain over the largest uniform configuration within the budget, if any.
      over_pair: its gain over the best uniform pair wXaY within the budget, if any.
    """

    winner: Finalist
    outcomes: Mapping[str, Outcomes]
    over_uniform: Gain | None
    over_pair: Gain | None


def confirm(
    proposals: Sequence[Finalist],
    uniform: Sequence[Finalist],
    evaluate: Callable[[np.ndarray], Outcomes],
) -> Confirmed:
    """Evaluates all finalists of a budget and selects the winner, see `select`.

    Args:
      proposals: at least one.
      uniform: the largest uniform configuration within the budget, then the best pair; may be
        empty.
      evaluate: outcomes of a configuration on all confirmation images.
    """
    outcomes = {f.name: evaluate(f.configuration) for f in [*proposals, *uniform]}
    choice = select(proposals, uniform, outcomes)
    # Without a better pair, the uniform configuration is also the best pair.
    gains = [choice.gains[uniform[place].name] for place in (0, -1)] if uniform else [None, None]
    return Confirmed(choice.winner, outcomes, *gains)
