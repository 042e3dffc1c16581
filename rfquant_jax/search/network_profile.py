"""The profile of a coupled network: divergences of configurations, and a model of all others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from rfquant_jax.data.arrays import Images, image_batches
from rfquant_jax.errors import ArgumentError, UserError
from rfquant_jax.nn.functional import Arrays, arrays_of
from rfquant_jax.quant.configuration import Configuration
from rfquant_jax.quant.coupled_network import CoupledNetwork
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.files import parse_json
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.image_sets import ImageSets, image_sets
from rfquant_jax.search.prefix import choose_starts
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import ProfileSearch, ProfileSettings, measure_profile
from rfquant_jax.search.surrogate import Quality
from rfquant_jax.search.variables import SearchSpace, make_search_space

FEWEST = 10  # configurations that a model from a file is fitted to
STARTS = 16  # layers that an evaluation may start at, see `prefix.choose_starts`


class NetworkProfile:
    """How far configurations diverge from the largest bit-widths; `profile` makes it.

    A divergence is the mean Kullback-Leibler divergence, in nats, of a configuration's class
    probabilities from those of the largest bit-widths on the same images. It needs no labels.

    Attributes:
      plan: of the network.
      evaluator: measures configurations; None where the profile came from a file alone.
      record: every divergence that was measured.
      parts: disjoint sets of images that were measured apart.
      count: configurations that its design has.
      seed: of the draws.
    """

    def __init__(
        self,
        plan: QuantizationPlan,
        record: Profile,
        evaluator: CandidateEvaluator | None,
        *,
        parts: int = 1,
        count: int,
        seed: int = 0,
    ):
        self.plan, self.record, self.evaluator = plan, record, evaluator
        self.parts, self.count, self.seed = parts, count, seed

    def __len__(self) -> int:
        """Divergences in the profile."""
        return len(self.record)

    @property
    def measured(self) -> bool:
        """Whether further configurations can be measured."""
        return self.evaluator is not None

    @property
    def quality(self) -> Quality:
        """How well the model predicts configurations that it was not fitted to (5-fold): `r2` of
        log(divergence), `rank_correlation`, and the pairs `measured` and `predicted`."""
        return self._unrestricted.pooled.quality

    def divergences(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """Measured divergences, float64[N], a mean over the parts.

        Raises:
          UserError: it is not a configuration of the network.
          LookupError: one was not measured, and there is no network to measure it with.
        """
        rows = np.stack([self.plan.configuration(given) for given in configurations])
        return np.mean([self.record.measure(rows, part) for part in range(self.parts)], axis=0)

    def known(self, configuration: Configuration) -> float | None:
        """The measured divergence of a configuration; None if it was not measured.

        Raises:
          UserError: it is not a configuration of the network.
        """
        rows = self.plan.configuration(configuration)
        found = [self.record.known(rows, part) for part in range(self.parts)]
        return None if None in found else float(np.mean(found))

    def predict(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """Divergences by the model fitted to the profile, float64[N]; nothing is evaluated.

        Raises:
          UserError: it is not a configuration of the network.
        """
        rows = [self.plan.configuration(given) for given in configurations]
        pooled = self._unrestricted.pooled
        middle = self.plan.space.candidates[len(self.plan.space.candidates) // 2]
        centre = pooled.number(self.plan.space.uniform(middle, middle))
        return np.exp(pooled.surrogate(centre, width=np.inf).predict(rows))

    @cached_property
    def _unrestricted(self) -> ProfileSearch:
        """The model of all configurations."""
        return self.model()

    def model(
        self, search_space: SearchSpace | None = None, settings: ProfileSettings | None = None
    ) -> ProfileSearch:
        """A search on the profile's design: what searches measured besides only saves evaluations.

        Args:
          search_space: what may change; None: every bit-width that the plan allows. Restricted ones
            have a design of their own, which is measured where the profile lacks it.
          settings: constants; None: the published ones.

        Raises:
          UserError: too little was measured within the restrictions, and there is no network to
            measure with.
        """
        search_space = search_space or make_search_space(self.plan.space)
        if self.measured:
            design = measure_profile(self.record, search_space, self.parts, self.count, self.seed)
            chosen = {configuration.tobytes() for configuration in design}
            record = Restricted(self.record, lambda c: c.tobytes() in chosen)
        else:
            record = Restricted(self.record, search_space.holds)
            if len(record.snapshot(0, len(self.record))[0]) < FEWEST:
                raise UserError(
                    f"the profile holds fewer than {FEWEST} configurations within these limits, "
                    "pins and groups, and has no network to measure others with"
                )
        settings = settings or ProfileSettings()
        return ProfileSearch(
            record, len(self.record), self.parts, search_space, settings, self.seed
        )


class Restricted:
    """Some configurations of a profile; all others are measured through it.

    Args:
      record: the profile.
      chosen: whether a configuration int32[L, 2] is one of them.
    """

    def __init__(self, record: Profile, chosen: Callable[[np.ndarray], bool]):
        self._record, self._chosen = record, chosen
        self.measure = record.measure

    def snapshot(self, part: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """As that of `Profile`, of the chosen configurations."""
        configurations, divergences = self._record.snapshot(part, length)
        kept = np.asarray([self._chosen(c) for c in configurations], bool)
        return configurations[kept], divergences[kept]


def profile(
    network: CoupledNetwork | QuantizationPlan,
    images: Images = None,
    path: str | os.PathLike[str] | None = None,
    *,
    configurations: int = 400,
    batch_size: int = 256,
    seed: int = 0,
) -> NetworkProfile:
    """Measures how far configurations diverge from the largest one, and fits a model to it.

    Every budget can be searched on one profile. What was measured is kept in `path`, line by line:
    an interrupted call continues there, and the same call later measures nothing.

    Args:
      network: a coupled network; or a plan, which answers from the file at `path` alone.
      images: that no accuracy is reported on later, [N, H, W, C] or batches of one shape, as
        `coupled.preprocess` takes them. The paper's searches need no more than 2,000.
      path: of a file of JSON lines, created with its folder. One of another network, other images
        or another number of bit-widths is replaced. None: the profile is kept in memory.
      configurations: how many to measure; less than the pairs wXaY is raised to their number.
      batch_size: an array is cut into batches of so many images; a few images are left out where it
        cannot be divided. Statistics are those of each batch.
      seed: of the choice of configurations.

    Returns:
      the profile, with the evaluator that measures further configurations while budgets are
      searched; without one where `network` is a plan.

    Raises:
      ArgumentError: an argument breaks its rule.
      UserError: the file is missing or of another network, where `network` is a plan.

    Example:
      >>> profile = rfq.profile(coupled, images, configurations=40)
      >>> len(profile)
      40
      >>> float(profile.divergences(["w6a6"])[0]) < 1e-6  # from itself
      True
      >>> predicted = profile.predict(["w4a4", {"conv": (2, 3), "last": (6, 4)}])
    """
    if configurations < 10:
        raise ArgumentError("configurations", configurations, "must be at least 10")
    if isinstance(network, QuantizationPlan):
        return _from_file(network, path, seed)
    if images is None:
        raise ArgumentError("images", None, "must be given for a coupled network")
    plan = network.plan
    sets = _image_sets(images, batch_size)
    params = devices.replicate(arrays_of(network.network)[0], network.mesh)
    evaluator = CandidateEvaluator(
        network.functional,
        params,
        network.mesh,
        network.preprocess,
        sets,
        plan.space.largest,
        "divergence",
        choose_starts(plan.cost_model.macs, STARTS),
    )
    record = Profile(
        plan.space,
        None if path is None else Path(path),
        _header(plan, params, sets),
        lambda rows, part: evaluator.mean(rows, sets.numbers(part)),
    )
    measure_profile(record, make_search_space(plan.space), 1, configurations, seed)
    return NetworkProfile(plan, record, evaluator, count=configurations, seed=seed)


def _image_sets(images: Images, batch_size: int) -> ImageSets:
    """Batches with labels that nobody reads."""
    joined = np.concatenate(image_batches(images))
    if batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "must be at least 1")
    return image_sets([{"image": joined, "label": np.zeros(len(joined), np.int32)}], batch_size)


def _header(plan: QuantizationPlan, params: Arrays, sets: ImageSets) -> dict:
    """What divergences depend on."""
    batches = (batch["image"] for batch in sets.batches)
    return {
        "parameters": _digest(np.asarray(params[name]) for name in sorted(params)),
        "images": {"digest": _digest(batches), "batches": sets.each},
        "candidates": list(plan.space.candidates),
        "layers": list(plan.space.names),
    }


def _digest(arrays: Iterator[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _from_file(
    plan: QuantizationPlan, path: str | os.PathLike[str] | None, seed: int
) -> NetworkProfile:
    if path is None:
        raise ArgumentError("path", None, "must name the file of a profile for a plan")
    header = _read_header(Path(path))
    wanted = {"candidates": list(plan.space.candidates), "layers": list(plan.space.names)}
    for what, own in wanted.items():
        if header.get(what) != own:
            raise UserError(f"{path}: is the profile of another network: its {what} differ")
    record = Profile(plan.space, Path(path), header)
    parts = record.parts
    if not parts:
        raise UserError(f"{path}: holds no measurements")
    return NetworkProfile(plan, record, None, parts=parts, count=len(record), seed=seed)


def _read_header(path: Path) -> dict:
    try:
        with path.open(encoding="utf-8") as file:
            header = parse_json(file.readline(2**20))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a profile ({error})") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: is not a profile")
    return header
