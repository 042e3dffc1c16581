"""The progress of a profile's missing measurements, and of the budgets searched in it."""

import shutil
from contextlib import contextmanager

import numpy as np

from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import ProfileSearch, ProfileSettings
from rfquant_jax.search.propose import propose_from_profile
from rfquant_jax.search.trust_region import TrustRegionSettings
from rfquant_jax.search.variables import make_search_space
from rfquant_jax.tasks.profile import complete
from tests.search.landscapes import bitops_budgets, space_of

SEARCH_SPACE = make_search_space(space_of(2))


class CountingLog:
    """A log that keeps how much each progress announced, and how much of it came."""

    def __init__(self):
        self.totals, self.advanced = {}, {}

    def info(self, message):
        assert "evaluations available" in message

    @contextmanager
    def progress(self, task, total, done=0):
        self.totals[task], self.advanced[task], self.task = (total, done), 0, task
        yield self

    def advance(self):
        self.advanced[self.task] += 1


def evaluate(configurations, part):
    return np.exp(-configurations.sum(axis=(1, 2)) / 3 - part)


def searched(folder, *limits):
    """Searches budgets on two parts; returns the log, the budgets that ended, and the profile."""
    profile, log = (
        Profile(SEARCH_SPACE.space, folder / "profile.jsonl", {}, evaluate),
        CountingLog(),
    )
    complete(profile, SEARCH_SPACE, 2, 30, 0, log)
    settings = ProfileSettings(30, TrustRegionSettings(evaluations=12))
    search = ProfileSearch(profile, len(profile), 2, SEARCH_SPACE, settings, 0)
    budgets, ended = bitops_budgets(2, *limits), []
    found = propose_from_profile(search, budgets, lambda: ended.append(len(profile)))
    for budget, answer in zip(budgets, found, strict=True):
        names = [proposal.name for proposal in answer.proposals]
        assert names == ["trust region, half A", "trust region, half B"]
        assert all(budget.fits(proposal.configuration) for proposal in answer.proposals)
        assert 0 <= answer.evaluations <= 12
    return log, ended, profile


def test_progress_counts_what_remains_where_a_profile_was_copied(tmp_path):
    first, ended, profile = searched(tmp_path / "one", 60.0, 34.0)
    measured = first.totals["profile"][0]
    assert 2 * 25 < measured < len(profile)  # 25 uniform pairs and more, on both parts
    assert first.totals == {"profile": (measured, 0)}
    # What a budget measures does not advance the progress of the profile.
    assert first.advanced == {"profile": measured}
    assert len(ended) == 2
    assert ended[-1] == len(profile)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    again, ended, _ = searched(tmp_path / "two", 34.0)
    assert again.totals == {"profile": (0, 0)}
    assert len(ended) == 1
    # A part of the profile is there.
    file = tmp_path / "two" / "profile.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:11]))
    last, _, _ = searched(tmp_path / "two", 34.0)
    assert last.totals["profile"] == (measured - 10, 0)
    assert last.advanced["profile"] == measured - 10
