"""The profile of the task `search`: its file, and its missing measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rfquant_jax.config import settings
from rfquant_jax.report.log import RunLog
from rfquant_jax.runtime import devices
from rfquant_jax.search import snapshot
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import ProfileSearch, measure_profile, unmeasured
from rfquant_jax.search.search_images import SearchImages
from rfquant_jax.search.variables import SearchSpace
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import candidate_evaluator
from rfquant_jax.tasks.problem import SearchProblem
from rfquant_jax.tasks.profile_key import profile_header, snapshot_request
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.search_images import profile_images
from rfquant_jax.tasks.workdir import PROFILE_FILE, SEARCH_FOLDER, SNAPSHOT_FILE

CHUNK = 32  # configurations between checks of stop signals


def open_profile(run: Run, trained: networks.Trained, images: SearchImages) -> Profile:
    """The run's profile; a new one starts from a copy of that of `config.checkpoint`."""
    sets = profile_images(run.config, run.pipeline, images)
    path = run.workdir / SEARCH_FOLDER / PROFILE_FILE
    header = profile_header(run, trained.origin, sets)
    if run.config.checkpoint:
        source = networks.other_run(run) / SEARCH_FOLDER / PROFILE_FILE
        if reason := copied(source, path, header):
            run.log.info(f"search: the profile {source} {reason}: it is not used")
    if path.exists() and (reason := snapshot.mismatch(path, header)):
        run.log.info(f"search: the profile {path} {reason}: its evaluations are forgotten")
    # Whole passes: the configurations of a profile share no prefix, and those of a trust region are
    # few, so that a program with cuts takes longer to compile than it saves.
    evaluate = candidate_evaluator(run, trained, sets, "divergence")

    def measure(configurations: np.ndarray, part: int) -> np.ndarray:
        run.stop.check()
        return evaluate.mean(configurations, sets.numbers(part))

    return Profile(run.plan.space, path, header, measure, chunk=CHUNK)


def copied(source: Path, path: Path, header: dict) -> str | None:
    """Copies a record of another run, see `snapshot.copy_record`; every process reads the same."""
    reason = snapshot.copy_record(source, path, header)
    devices.barrier(path.name)
    return reason


def measured_profile(
    run: Run, trained: networks.Trained, problem: SearchProblem, images: SearchImages
) -> tuple[ProfileSearch, dict]:
    """The search of the run's profile, after measuring what is missing, and its snapshot.

    Raises:
      Interrupted: a signal was received; measurements are kept.
    """
    profile, parts = open_profile(run, trained, images), len(images.proposing)
    chosen, seed = settings.profile_settings(run.config), run.config.seed
    complete(profile, problem.search_space, parts, chosen.configurations, seed, run.log)
    path = run.workdir / SEARCH_FOLDER / SNAPSHOT_FILE
    request = snapshot_request(run.config, trained.origin, problem)
    length = snapshot.snapshot_length(path, request, profile)
    search = ProfileSearch(profile, length, parts, problem.search_space, chosen, seed)
    return search, {"length": length, "sha256": profile.digest(length)}


def complete(
    profile: Profile, search_space: SearchSpace, parts: int, count: int, seed: int, log: RunLog
) -> None:
    """Measures the missing configurations of the profile's design, with progress messages.

    Args:
      parts: number of parts of the images.
      count: number of configurations in the profile.
    """
    log.info(
        f"search: a profile of {count} configurations on {parts} "
        f"set{'s' * (parts > 1)} of images; {len(profile)} evaluations available"
    )
    design = search_space, parts, count, seed
    with log.progress("profile", unmeasured(profile, *design)) as progress:
        profile.on_evaluation = progress.advance
        measure_profile(profile, *design)
    profile.on_evaluation = lambda: None
