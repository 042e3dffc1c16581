"""An additive surrogate of the divergence from the largest configuration, fitted to a profile.

    log(divergence) = constant + sum over variables of a term for the variable's bit-width
                               + sum over layers of a term for its pair of bit-widths

The model is a ridge regression. All variables of a column share one term per bit-width, and each
variable has its own deviation from it; for rarely measured variables the shared term dominates. All
layers share the terms of pairs. The weight of a measurement decreases with the number of variables
that differ from the centre of the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rfquant_jax.quant.space import ACTIVATIONS, WEIGHTS
from rfquant_jax.search.variables import SearchSpace

FLOOR = 1e-6  # added before the logarithm: the divergence of the largest configuration is 0
STRENGTHS = tuple(10.0**k for k in np.arange(-3, 3.1, 0.5))
FOLDS = 5


def log_divergence(divergences: np.ndarray) -> np.ndarray:
    """The target of the regression, log(divergence); NaN is replaced by the largest divergence.

    Divergences slightly below 0, due to rounding, count as 0.
    """
    values = np.asarray(divergences, np.float64)
    finite = values[np.isfinite(values)]
    worst = finite.max() if len(finite) else 0.0
    return np.log(np.maximum(np.where(np.isfinite(values), values, worst), 0.0) + FLOOR)


@dataclass(frozen=True)
class Terms:
    """The additive terms of a model.

    Attributes:
      variables: for each variable, {bit-width: term}.
      pairs: {(weight bits, activation bits): term}, added once per layer with these bits.
    """

    variables: tuple[dict[int, float], ...]
    pairs: dict[tuple[int, int], float]


@dataclass(frozen=True)
class Encoding:
    """Maps configurations to features: one per bit-width of each variable, and shared features.

    Shared features count the variables of each column at each bit-width, then the layers at each
    pair of bit-widths.

    Attributes:
      search_space: the search space.
      reach: weight of the shared features; 0 disables them.
    """

    search_space: SearchSpace
    reach: float = 1.0

    @cached_property
    def starts(self) -> np.ndarray:
        """Index of each variable's first feature, followed by the number of such features."""
        return np.cumsum([0] + [len(v.allowed) for v in self.search_space.variables])

    def __call__(self, configurations: Sequence[np.ndarray]) -> np.ndarray:
        """Features float64[N, F] of configurations int32[N, L, 2]."""
        configurations = np.asarray(configurations)
        candidates = self.search_space.candidates
        own = np.zeros((len(configurations), self.starts[-1]))
        shared = np.zeros((len(configurations), 2, len(candidates)))
        rows = np.arange(len(configurations))
        for start, variable in zip(self.starts[:-1], self.search_space.variables, strict=True):
            bits = configurations[:, variable.layers[0], variable.column]
            own[rows, start + np.searchsorted(-np.asarray(variable.allowed), -bits)] = 1
            for column in variable.columns:
                shared[rows, column, np.searchsorted(-np.asarray(candidates), -bits)] += 1
        places = np.searchsorted(-np.asarray(candidates), -configurations)
        pairs = np.zeros((len(configurations), len(candidates), len(candidates)))
        for layer in range(places.shape[1]):
            pairs[rows, places[:, layer, WEIGHTS], places[:, layer, ACTIVATIONS]] += 1
        together = [part.reshape(len(rows), -1) for part in (shared, pairs)]
        return np.concatenate([own, self.reach * np.concatenate(together, axis=1)], axis=1)

    def terms(self, coefficients: np.ndarray) -> Terms:
        """The terms of coefficients float64[F]: own and shared terms of a variable are added."""
        candidates = self.search_space.candidates
        count = len(candidates)
        reached = self.reach * coefficients[self.starts[-1] :]
        shared = reached[: 2 * count].reshape(2, count)
        pairs = reached[2 * count :].reshape(count, count)
        places = {bits: i for i, bits in enumerate(candidates)}
        own = tuple(
            {
                bits: float(
                    coefficients[start + i]
                    + sum(shared[column, places[bits]] for column in variable.columns)
                )
                for i, bits in enumerate(variable.allowed)
            }
            for start, variable in zip(self.starts[:-1], self.search_space.variables, strict=True)
        )
        both = itertools.product(enumerate(candidates), repeat=2)
        return Terms(own, {(w, a): float(pairs[i, j]) for (i, w), (j, a) in both})


@dataclass(frozen=True)
class Surrogate:
    """A fitted model.

    Attributes:
      encoding: features of configurations.
      centre: int32[L, 2], where the model equals `value` exactly.
      value: log(divergence) at the centre.
      mean: posterior mean of the coefficients, float64[F].
      root: float64[F, F], a root of the posterior covariance of the coefficients.
    """

    encoding: Encoding
    centre: np.ndarray
    value: float
    mean: np.ndarray
    root: np.ndarray

    def predict(self, configurations: Sequence[np.ndarray]) -> np.ndarray:
        """log(divergence), float64[N]."""
        features = self.encoding(configurations) - self.encoding([self.centre])
        return self.value + features @ self.mean

    @property
    def terms(self) -> Terms:
        """The terms of the posterior mean; only differences between configurations matter."""
        return self.encoding.terms(self.mean)

    def sample(self, rng: np.random.Generator) -> Terms:
        """Terms drawn from the posterior (Thompson sampling)."""
        drawn = self.mean + self.root @ rng.standard_normal(len(self.mean))
        return self.encoding.terms(drawn)


def distances(
    configurations: np.ndarray, centre: np.ndarray, search_space: SearchSpace
) -> np.ndarray:
    """Number of variables of each configuration that differ from the centre, int[N]."""
    first = (
        [v.layers[0] for v in search_space.variables],
        [v.column for v in search_space.variables],
    )
    return (np.asarray(configurations)[:, *first] != centre[first]).sum(1)


def fit(
    encoding: Encoding,
    configurations: np.ndarray,
    values: np.ndarray,
    centre: np.ndarray,
    value: float,
    *,
    strength: float,
    width: float,
) -> Surrogate:
    """Weighted ridge regression around a measured configuration.

    Args:
      configurations: int32[N, L, 2].
      values: log(divergence), float64[N].
      centre, value: a configuration and its log(divergence), which the model reproduces exactly.
      strength: strength of the ridge, per measurement of full weight over N.
      width: the weight of a measurement is exp(-variables that differ from the centre / width).
    """
    features = encoding(configurations) - encoding([centre])
    weights = np.exp(-distances(configurations, centre, encoding.search_space) / width)
    target = values - value
    scaled = features * weights[:, None]
    # The ridge scales with the effective number of measurements.
    ridge = strength * (weights.mean() if len(weights) else 1.0)
    hessian = features.T @ scaled + ridge * np.eye(features.shape[1])
    factor = np.linalg.cholesky(hessian)
    mean = np.linalg.solve(hessian, scaled.T @ target)
    spread = np.sqrt(np.sum(weights * (target - features @ mean) ** 2) / max(weights.sum(), 1e-12))
    # hessian^-1 = root @ root.T / spread^2
    root = spread * np.linalg.inv(factor).T
    return Surrogate(encoding, centre, value, mean, root)


@dataclass(frozen=True)
class Quality:
    """Quality of the model by cross-validation.

    Attributes:
      strength: the best strength of the ridge.
      r2: fraction of the variance of log(divergence) explained.
      rank_correlation: Spearman's.
      measured, predicted: log(divergence), float64[N].
    """

    strength: float
    r2: float
    rank_correlation: float
    measured: np.ndarray
    predicted: np.ndarray


def cross_validate(encoding: Encoding, configurations: np.ndarray, values: np.ndarray) -> Quality:
    """Selects the strength of the ridge, with equal weights for all measurements.

    Args:
      configurations: int32[N, L, 2]; with N below `FOLDS` only the mean is predicted.
      values: log(divergence), float64[N].
    """
    if len(values) < FOLDS:
        mean = values.mean() if len(values) else 0.0
        return Quality(STRENGTHS[-1], 0.0, 0.0, values, np.full(len(values), mean))
    features = encoding(configurations)
    folds = np.arange(len(values)) % FOLDS
    predicted = np.zeros((len(STRENGTHS), len(values)))
    for fold in range(FOLDS):
        held = folds == fold
        predicted[:, held] = _ridge_path(features[~held], values[~held], features[held])
    errors = np.mean((predicted - values) ** 2, axis=1)
    best = int(np.argmin(errors))
    variance = np.var(values)
    r2 = 1 - errors[best] / variance if variance > 0 else 0.0
    from scipy import stats  # a second to import, which `--help` need not wait for

    rank = stats.spearmanr(values, predicted[best])[0] if variance > 0 else 0.0
    return Quality(STRENGTHS[best], float(r2), float(rank), values, predicted[best])


def _ridge_path(features: np.ndarray, target: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predictions at `new` for every strength, float64[strengths, M]; the mean is not penalised."""
    centre, mean = features.mean(0), target.mean()
    left, scale, right = np.linalg.svd(features - centre, full_matrices=False)
    projected, seen = left.T @ (target - mean), (new - centre) @ right.T
    return np.stack([mean + seen @ (scale / (scale**2 + k) * projected) for k in STRENGTHS])
