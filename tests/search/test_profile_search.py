"""A search on a profile: snapshots, evaluations, parts of the images, and being killed."""

import numpy as np
import pytest

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.search.budget import Budget, Limit
from rfquant_jax.search.design import profile_configurations
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.profile_search import (
    ProfileSearch,
    ProfileSettings,
    measure_profile,
    unmeasured,
)
from rfquant_jax.search.trust_region import TrustRegionSettings
from rfquant_jax.search.variables import make_search_space
from tests.search.landscapes import additive_terms, divergence, space_of

LAYERS, COUNT = 3, 30
SEARCH_SPACE = make_search_space(space_of(LAYERS))
SETTINGS = ProfileSettings(COUNT, TrustRegionSettings(evaluations=9, proposals=3, patience=2))
KIND = CostModel(np.full(LAYERS, 10**9), np.ones(LAYERS), 0, 0).kinds()["G"]
BUDGETS = tuple(Budget(f"{x}G", (Limit(KIND, x),)) for x in (60.0, 34.0))


class KilledError(Exception):
    """As by a signal."""


def evaluate(configurations, part):
    """Log harms that nearly add up, by other measures on each part."""
    values = divergence(additive_terms(5 + part, LAYERS), configurations)
    noise = [np.random.default_rng([part, *c.ravel().tolist()]).normal() for c in configurations]
    return values * np.exp(0.3 * np.asarray(noise))


def opened(path, measure=evaluate, chunk=4):
    return Profile(SEARCH_SPACE.space, path, {"key": 1}, measure, chunk=chunk)


def searched(profile, length, parts=2, budgets=BUDGETS, settings=SETTINGS):
    search = ProfileSearch(profile, length, parts, SEARCH_SPACE, settings, seed=3)
    found = [search(budget, number) for number, budget in enumerate(budgets)]
    return [[c.tolist() for c in best] for best in found], search


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of an undisturbed search, the length of its snapshot, and what was found."""
    path = tmp_path_factory.mktemp("whole") / "p.jsonl"
    profile = opened(path)
    measure_profile(profile, SEARCH_SPACE, 2, COUNT, seed=3)
    length = len(profile)
    found, _ = searched(profile, length)
    return path, length, found


def test_a_profile_is_measured_on_every_part(tmp_path):
    profile = opened(tmp_path / "p.jsonl")
    configurations = measure_profile(profile, SEARCH_SPACE, 2, COUNT, seed=3)
    np.testing.assert_array_equal(configurations, profile_configurations(SEARCH_SPACE, COUNT, 3))
    assert len(profile) == 2 * len(configurations)
    for part in (0, 1):
        np.testing.assert_array_equal(profile.snapshot(part, len(profile))[0], configurations)
    again = opened(tmp_path / "p.jsonl", None)
    np.testing.assert_array_equal(measure_profile(again, SEARCH_SPACE, 2, COUNT, 3), configurations)


def test_what_is_left_to_measure_does_not_count_what_the_file_has_beyond(whole, tmp_path):
    path, length, _ = whole
    (tmp_path / "p.jsonl").write_bytes(path.read_bytes())
    profile = opened(tmp_path / "p.jsonl")
    assert len(profile) > length  # the search asked for more
    assert unmeasured(profile, SEARCH_SPACE, 2, COUNT, seed=3) == 0
    known = {c.tobytes() for c in profile_configurations(SEARCH_SPACE, COUNT, 3)}
    found = [{c.tobytes() for c in profile.snapshot(part, len(profile))[0]} for part in (0, 1)]
    more = profile_configurations(SEARCH_SPACE, COUNT + 20, 3)
    missing = sum(c.tobytes() not in of for of in found for c in more)
    assert 0 < missing <= 2 * (len(more) - len(known))
    assert unmeasured(profile, SEARCH_SPACE, 2, COUNT + 20, seed=3) == missing
    before = len(profile)
    measure_profile(profile, SEARCH_SPACE, 2, COUNT + 20, seed=3)
    assert len(profile) - before == missing


def test_each_part_is_searched_by_itself(whole):
    """As if the other one were not there, with half of the evaluations."""
    path, _, found = whole
    profile = opened(path, None)
    assert any(best[0] != best[1] for best in found)
    for part in (0, 1):
        values = {
            c.tobytes(): v for c, v in zip(*profile.snapshot(part, len(profile)), strict=True)
        }
        for budget, best in zip(BUDGETS, found, strict=True):
            mine = np.asarray(best[part], np.int32)
            assert budget.fits(mine)
            pairs = [SEARCH_SPACE.uniform(w, a) for w in (6, 5, 4, 3, 2) for a in (6, 5, 4, 3, 2)]
            fitting = [values[c.tobytes()] for c in pairs if budget.fits(c)]
            assert values[mine.tobytes()] <= min(fitting)


def test_evaluations_never_exceed_the_setting(whole, tmp_path):
    path, length, _ = whole
    (tmp_path / "p.jsonl").write_bytes(path.read_bytes())
    lines = path.read_text().splitlines()
    copy = tmp_path / "short.jsonl"
    copy.write_text("\n".join(lines[: length + 1]) + "\n")
    profile, asked = opened(copy), []
    search = ProfileSearch(profile, length, 2, SEARCH_SPACE, SETTINGS, seed=3)
    for number, budget in enumerate(BUDGETS):
        before = search.measured
        search(budget, number)
        asked.append(search.measured - before)
        assert 0 < asked[-1] <= 9
    assert len(profile) - length == search.measured == sum(asked)
    # What the file has already is not evaluated again, and counts all the same.
    _, again = searched(opened(copy, None), length)
    assert again.measured == sum(asked)


def test_the_same_snapshot_gives_the_same_result_whatever_was_appended(whole, tmp_path):
    path, length, found = whole
    copy = tmp_path / "p.jsonl"
    copy.write_bytes(path.read_bytes())
    profile, rng = opened(copy), np.random.default_rng(0)
    for part in (1, 0):
        profile.measure(np.stack([SEARCH_SPACE.sample(rng) for _ in range(15)]), part)
    assert len(opened(copy, None)) > length + 30
    assert searched(opened(copy), length)[0] == found
    # Nothing but what the snapshot holds is needed beside the search's own questions.
    assert searched(opened(path, None), length)[0] == found


def test_a_longer_snapshot_may_give_another_result(whole, tmp_path):
    path, _, found = whole
    copy = tmp_path / "p.jsonl"
    copy.write_bytes(path.read_bytes())
    profile = opened(copy)
    best = [np.asarray(c, np.int32) for c in found[1]]
    again, _ = searched(profile, len(profile), budgets=BUDGETS[1:])
    for part in (0, 1):
        new = np.asarray(again[0][part], np.int32)
        assert evaluate(new[None], part)[0] <= evaluate(best[part][None], part)[0]


def test_killed_at_every_evaluation_it_ends_as_an_undisturbed_search(whole, tmp_path):
    path, length, found = whole
    text = path.read_text()
    evaluations = text.count("\n") - 1
    assert evaluations > length + 8

    def run(file, dies_after=None):
        profile, kept = opened(file), []

        def on_evaluation():
            kept.append(None)
            if len(kept) == dies_after:
                raise KilledError

        profile.on_evaluation = on_evaluation
        measure_profile(profile, SEARCH_SPACE, 2, COUNT, seed=3)
        return searched(profile, length)[0]

    # All moments of the search, and some of the measuring before.
    for after in [1, 2, 31, *range(length - 1, evaluations + 1)]:
        file = tmp_path / f"{after}.jsonl"
        with pytest.raises(KilledError):
            run(file, after)
        assert file.read_text() == "".join(text.splitlines(keepends=True)[: after + 1])
        if after % 2:  # killed in the middle of a line, too
            file.write_text(file.read_text()[:-9])
        assert run(file) == found
        assert file.read_text() == text


def test_a_file_alone_is_enough_for_what_it_was_asked_before(whole):
    path, length, found = whole
    profile = opened(path, None)
    assert searched(profile, length)[0] == found
    other = (Budget("47G", (Limit(KIND, 47.0),)),)
    with pytest.raises(LookupError, match="no network to evaluate"):
        searched(profile, length, budgets=other)


def test_the_pooled_model_has_what_every_part_has(whole):
    path, length, _ = whole
    profile = opened(path)
    _, search = searched(profile, length)
    configurations, first = profile.snapshot(0, length)
    _, second = profile.snapshot(1, length)
    means = (first + second) / 2
    np.testing.assert_allclose(search.divergences(configurations), means)
    assert len(search.pooled.quality.measured) == len(configurations) - 1  # less the largest
    some = SEARCH_SPACE.uniform(4, 4)
    some[0, 0] = 2
    only_once = np.array(SEARCH_SPACE.lowest)
    only_once[1] = 6, 3
    assert not {some.tobytes(), only_once.tobytes()} & {c.tobytes() for c in configurations}
    longer = opened(path.with_name("longer.jsonl"))
    longer.measure(configurations, 0)
    longer.measure(configurations, 1)
    longer.measure(np.stack([some, only_once]), 0)
    longer.measure(some[None], 1)
    pooled = ProfileSearch(longer, len(longer), 2, SEARCH_SPACE, SETTINGS, 0)
    found = pooled.divergences([some, only_once, configurations[3]])
    both = (evaluate(some[None], 0) + evaluate(some[None], 1))[0] / 2
    np.testing.assert_allclose(found, [both, np.nan, means[3]])
    for budget in BUDGETS:
        best = pooled.pooled.configuration(pooled.pooled.best(budget))
        fitting = [(m, c) for m, c in zip(means, configurations, strict=True) if budget.fits(c)]
        assert pooled.divergences([best])[0] <= min(fitting, key=lambda pair: pair[0])[0]


def test_one_part_takes_all_evaluations(tmp_path):
    profile = opened(tmp_path / "p.jsonl")
    measure_profile(profile, SEARCH_SPACE, 1, COUNT, seed=3)
    length = len(profile)
    found, search = searched(profile, length, parts=1)
    assert [len(best) for best in found] == [1, 1]
    assert 9 // 2 < search.measured <= 18
    assert len(search.quality) == 1
    np.testing.assert_array_equal(search.quality[0].measured, search.pooled.quality.measured)


def test_a_profile_of_a_search_without_restrictions_leads_to_no_forbidden_bits(whole, tmp_path):
    path, _, _ = whole
    copied = tmp_path / "p.jsonl"
    copied.write_bytes(path.read_bytes())
    pinned = make_search_space(SEARCH_SPACE.space, pins=[("l1", (5, 2))], max_bits=5)
    profile = opened(copied)
    measure_profile(profile, pinned, 2, COUNT, seed=3)
    search = ProfileSearch(profile, len(profile), 2, pinned, SETTINGS, seed=3)
    for number, budget in enumerate(BUDGETS):
        for best in search(budget, number):
            assert best[1].tolist() == [5, 2]
            assert best.max() <= 5
            assert budget.fits(best)
    assert all(pinned.holds(search.pooled.configuration(i)) for i in range(COUNT))
