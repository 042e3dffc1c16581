"""Measures the profile of a coupled network, or reads it from a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rfquant_jax.data.arrays import Images, image_batches
from rfquant_jax.errors import ArgumentError, UserError
from rfquant_jax.nn.functional import Arrays, arrays_of
from rfquant_jax.quant.coupled_network import CoupledNetwork
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.files import parse_json
from rfquant_jax.search.evaluator import CandidateEvaluator
from rfquant_jax.search.image_sets import ImageSets, image_sets
from rfquant_jax.search.network_profile import NetworkProfile
from rfquant_jax.search.profile import Profile, candidates_of
from rfquant_jax.search.profile_search import measure_profile
from rfquant_jax.search.variables import make_search_space


def profile(
    network: CoupledNetwork | QuantizationPlan,
    images: Images = None,
    path: str | os.PathLike[str] | None = None,
    *,
    configurations: int = 400,
    batch_size: int = 256,
    seed: int = 0,
) -> NetworkProfile:
    """Measures divergences of configurations from the largest one and fits a surrogate to them.

    One profile serves all budgets. Each measurement is appended to the file `path`: an interrupted
    call resumes from it, and a repeated call measures nothing.

    Args:
      network: a coupled network; or a plan, to read a profile from `path` without a network.
      images: images for measuring, [N, H, W, C] or batches of one shape, in the form that
        `coupled.preprocess` takes. Do not use images on which you report accuracies later. 2,000
        are enough.
      path: a file of JSON lines; it and its folder are created if missing. A file of another
        network, other images or other candidates is replaced. None: the profile is only in memory.
      configurations: number of configurations to measure; values below the number of uniform pairs
        wXaY are raised to it.
      batch_size: images per batch, for an array; images that do not fill a batch may be left out.
        BatchNorm uses the statistics of each batch.
      seed: seed of the choice of configurations.

    Returns:
      the profile. Given a coupled network, it has an evaluator, with which searches measure further
      configurations.

    Raises:
      ArgumentError: an argument breaks its rule.
      UserError: `network` is a plan, and the file is missing or of another network.

    Source: this project.

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
    """Batches of the images; labels are required but not used."""
    joined = np.concatenate(image_batches(images))
    if batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "must be at least 1")
    return image_sets([{"image": joined, "label": np.zeros(len(joined), np.int32)}], batch_size)


def _header(plan: QuantizationPlan, params: Arrays, sets: ImageSets) -> dict:
    """Everything that measured divergences depend on."""
    batches = (batch["image"] for batch in sets.batches)
    return {
        "parameters": _digest(np.asarray(params[name]) for name in sorted(params)),
        "images": {"digest": _digest(batches), "batches": sets.each},
        **_space_header(plan),
    }


def _space_header(plan: QuantizationPlan) -> dict:
    """What a file must have in common with a plan: candidates and layers."""
    return {**candidates_of(plan.space), "layers": list(plan.space.names)}


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
    wanted = {"activation_candidates": None, **_space_header(plan)}
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
