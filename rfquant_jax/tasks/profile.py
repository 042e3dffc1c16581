"""The profile of the task `search`: its images, its file, and its proposals for each budget."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from rfquant_jax.config import settings
from rfquant_jax.errors import listed
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.files import replacing
from rfquant_jax.search.image_sets import ImageSets, image_sets, shuffled_views
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import ProfileSearch, measure_profile, unmeasured
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirm import SearchImages
from rfquant_jax.tasks.profile_key import (
    differences,
    profile_header,
    snapshot_request,
    stored_header,
)
from rfquant_jax.tasks.propose import Proposal, Proposals, candidate_evaluator
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import (
    PROFILE_FILE,
    SEARCH_FOLDER,
    SNAPSHOT_FILE,
    read_json,
    write_json,
)

CHUNK = 32  # configurations between checks of stop signals


def profile_images(run: Run, images: SearchImages) -> ImageSets:
    """The images of the profile."""
    search, seed = run.config.search, settings.derived_seed(run.config, "profile")

    def joined(number: int) -> dict[str, np.ndarray]:
        part = images.proposing[number]

        def view(index: int) -> dict[str, np.ndarray]:
            batches = run.pipeline.training(
                part, len(part), seed=seed + index, augment=index > 0, whole=True
            )
            return batches[0]

        return shuffled_views(view, search.views, search.images, seed + number)

    return image_sets([joined(part) for part in range(len(images.proposing))], search.batch_size)


def open_profile(run: Run, trained: networks.Trained, images: SearchImages) -> Profile:
    """The run's profile; a new one starts from a copy of that of `config.checkpoint`."""
    sets = profile_images(run, images)
    path = run.workdir / SEARCH_FOLDER / PROFILE_FILE
    header = profile_header(run, trained, sets)
    _copy_profile(run, path, header)
    if path.exists():
        _compare(run, path, header, "its evaluations are forgotten")
    # Whole passes: the configurations of a profile share no prefix, and those of a trust region are
    # few, so that a program with cuts takes longer to compile than it saves.
    evaluate = candidate_evaluator(run, trained, sets, "divergence")

    def measure(configurations: np.ndarray, part: int) -> np.ndarray:
        run.stop.check()
        return evaluate.mean(configurations, sets.numbers(part))

    return Profile(run.plan.space, path, header, measure, chunk=CHUNK)


def _copy_profile(run: Run, path: Path, header: dict) -> None:
    source = Path(run.config.checkpoint) / SEARCH_FOLDER / PROFILE_FILE
    wanted = run.config.checkpoint and not path.exists() and source.is_file()
    if wanted and _compare(run, source, header, "it is not used"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)
    devices.barrier("profile")  # every process reads the same lines


def _compare(run: Run, path: Path, header: dict, otherwise: str) -> bool:
    """Whether a profile on disk was measured under this header; the log names what differs."""
    found = stored_header(path)
    if found == header:
        return True
    what = "is damaged"
    if found is not None:
        what = f"was measured with other {listed(differences(found, header))}"
    run.log.info(f"search: the profile {path} {what}: {otherwise}")
    return False


def propose_from_profile(
    run: Run, trained: networks.Trained, images: SearchImages
) -> tuple[Proposals, ProfileSearch]:
    """Measures missing configurations of the profile, then searches every budget in trust regions.

    Raises:
      Interrupted: a signal was received; measurements are kept.
    """
    chosen = settings.profile_settings(run.config)
    profile = open_profile(run, trained, images)
    parts = len(images.proposing)
    run.log.info(
        f"search: a profile of {chosen.configurations} configurations on {parts} "
        f"set{'s' * (parts > 1)} of images; {len(profile)} evaluations available"
    )
    design = run.search_space, parts, chosen.configurations, run.config.seed
    with run.log.progress("profile", unmeasured(profile, *design)) as progress:
        profile.on_evaluation = progress.advance
        measure_profile(profile, *design)
    length = _snapshot(run, trained, profile)
    search = ProfileSearch(profile, length, parts, run.search_space, chosen, run.config.seed)
    found, details = [], []
    # Counted in budgets: a search may stop early, and the file may hold what it asks for.
    profile.on_evaluation = lambda: None
    with run.log.progress("search", len(run.budgets)) as progress:
        for number, budget in enumerate(run.budgets):
            before = search.measured
            best = search(budget, number)
            found.append([Proposal(_name(p, parts), c, p) for p, c in enumerate(best)])
            details.append(
                {
                    "evaluations": search.measured - before,
                    "profile": {"length": length, "sha256": profile.digest(length)},
                }
            )
            progress.advance()
    return Proposals(found, [], details), search


def _name(part: int, parts: int) -> str:
    return f"trust region, half {'AB'[part]}" if parts > 1 else "trust region"


def _snapshot(run: Run, trained: networks.Trained, profile: Profile) -> int:
    """Number of evaluations this search starts from; a resumed search keeps its initial number."""
    path = run.workdir / SEARCH_FOLDER / SNAPSHOT_FILE
    request = snapshot_request(run, trained)
    known = read_json(path) if path.exists() else None
    if isinstance(known, dict) and known.get("request") == request:
        length = known.get("length")
        if isinstance(length, int) and profile.digest(length) == known.get("sha256"):
            return length
    length = len(profile)
    write_json(path, {"request": request, "length": length, "sha256": profile.digest(length)})
    return length
