"""Parts of the task `search` that need no network."""

import itertools
import json
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.search.budget import Budget, Limit
from rfquant_jax.search.latency import LatencyTable
from rfquant_jax.search.profile import Profile
from rfquant_jax.search.variables import make_search_space
from rfquant_jax.tasks import profile as profile_task
from rfquant_jax.tasks.profile import _copy_profile, _snapshot
from rfquant_jax.tasks.search import best_pair
from tests.search.landscapes import B, space_of

SEARCH_SPACE = make_search_space(space_of(2))
KIND = CostModel(np.full(2, 10**9), np.ones(2), 0, 0).kinds()["G"]


def best_of(values, limit, search_space=SEARCH_SPACE):
    """The best pair where pairs diverge by these values, the others by nothing known."""
    known = {search_space.uniform(*pair).tobytes(): value for pair, value in values.items()}
    model = SimpleNamespace(
        divergences=lambda cs: np.asarray([known.get(c.tobytes(), np.nan) for c in cs])
    )
    budget = Budget("x", (Limit(KIND, limit),))
    return best_pair(SimpleNamespace(search_space=search_space), budget, model)


def test_the_best_pair_is_the_one_that_diverges_least_within_the_budget():
    values = {(w, a): 10.0 - w - a / 10 for w, a in itertools.product(B, B)}
    # 2 w a <= 30: of w6a2, w5a3, w4a3 and others w6a2 diverges least.
    ((name, configuration),) = best_of(values, 30)
    assert name == "w6a2"
    np.testing.assert_array_equal(configuration, SEARCH_SPACE.uniform(6, 2))
    values[3, 5] = 0.5
    assert best_of(values, 30)[0][0] == "w3a5"
    assert best_of(values, 29)[0][0] == "w6a2"


@pytest.mark.parametrize("missing", [np.nan, None])
def test_a_pair_without_a_number_is_never_the_best(missing):
    values = dict.fromkeys(itertools.product(B, B), 1.0)
    values[2, 5] = 0.5
    for pair in ((6, 2), (3, 4), (2, 2)):
        values[pair] = missing
    values = {pair: value for pair, value in values.items() if value is not None}
    assert best_of(values, 24)[0][0] == "w2a5"


def test_of_pairs_that_are_one_configuration_the_name_has_the_most_bits():
    pinned = make_search_space(space_of(2), pins=[("l*", (4, 3))])
    assert best_of({(6, 6): 1.0}, 24, pinned)[0][0] == "w6a6"
    assert best_of({(6, 6): 1.0}, 23.9, pinned) == []


def test_with_equal_bits_of_weights_and_activations_the_name_is_that_of_a_level():
    equal = make_search_space(space_of(2), same_bits=["*"])
    values = {(b, b): float(7 - b) for b in B}
    ((name, configuration),) = best_of(values, 50, equal)
    assert (name, configuration.tolist()) == ("w5a5", [[5, 5], [5, 5]])  # w6a5 is the same one


def run_in(folder, *, checkpoint="", evaluations=12, profile=30, seed=0, **changes):
    search = SimpleNamespace(evaluations=evaluations, profile=profile)
    config = SimpleNamespace(checkpoint=checkpoint, search=search, seed=seed)
    budgets = [SimpleNamespace(text=text) for text in ("1*w4a4", "1*w2a2")]
    said = []
    parts = {"config": config, "workdir": folder, "budgets": budgets, "search_space": SEARCH_SPACE}
    parts |= {"latencies": None, "log": SimpleNamespace(info=said.append), "said": said}
    return SimpleNamespace(**parts | changes)


def test_a_profile_starts_from_a_copy_of_the_checkpoints_run(tmp_path):
    source = tmp_path / "trained" / "search" / "profile.jsonl"
    source.parent.mkdir(parents=True)
    source.write_text('{"images": 1}\none\n')
    path = tmp_path / "mine" / "search" / "profile.jsonl"
    _copy_profile(run_in(tmp_path / "mine"), path, {"images": 1})
    assert not path.exists()
    run = run_in(tmp_path / "mine", checkpoint=str(tmp_path / "trained"))
    _copy_profile(run, path, {"images": 1})
    assert path.read_text() == '{"images": 1}\none\n'
    source.write_text('{"images": 1}\ntwo\n')
    _copy_profile(run, path, {"images": 1})
    assert path.read_text() == '{"images": 1}\none\n'  # its own by now
    assert [file.name for file in path.parent.iterdir()] == ["profile.jsonl"]
    assert not run.said
    new = tmp_path / "new" / "p.jsonl"
    _copy_profile(run_in(tmp_path / "new", checkpoint=str(tmp_path)), new, {})
    assert not new.parent.exists()


def test_a_profile_of_other_images_is_not_copied_and_the_log_says_why(tmp_path):
    source = tmp_path / "search" / "profile.jsonl"
    source.parent.mkdir()
    wanted = {"precision": "float32", "images": {"views": 5, "mean": [0.3]}}
    run = run_in(tmp_path / "mine", checkpoint=str(tmp_path))
    for header, reason in (
        (wanted | {"images": {"views": 3, "mean": [0.3]}}, "was measured with other images.views"),
        (wanted | {"precision": "bfloat16"}, "was measured with other precision"),
        ({"precision": "float32", "images": {"views": 5}}, "was measured with other images.mean"),
        ([1], "is damaged"),
    ):
        source.write_text(json.dumps(header) + "\n")
        _copy_profile(run, tmp_path / "mine" / "p.jsonl", wanted)
        assert not (tmp_path / "mine").exists()
        assert run.said.pop() == f"search: the profile {source} {reason}: it is not used"


def test_a_snapshot_is_that_of_the_first_start(tmp_path):
    (tmp_path / "search").mkdir()
    trained = SimpleNamespace(origin="checkpoints/train/60 sha256:1")
    profile = Profile(
        SEARCH_SPACE.space, tmp_path / "p.jsonl", {}, lambda cs, part: cs.sum(axis=(1, 2)) / 10
    )
    profile.measure(np.stack([SEARCH_SPACE.uniform(w, 4) for w in B]), 0)
    run, file = run_in(tmp_path), tmp_path / "search" / "snapshot.json"
    assert _snapshot(run, trained, profile) == 5
    first = json.loads(file.read_text())
    assert (first["length"], first["sha256"]) == (5, profile.digest(5))
    profile.measure(np.stack([SEARCH_SPACE.uniform(4, a) for a in B]), 1)
    assert _snapshot(run, trained, profile) == 5
    # Other budgets, evaluations or checkpoints are another search, which may use all there is.
    other = run_in(tmp_path)
    other.budgets.pop()
    assert _snapshot(other, trained, profile) == 10
    assert _snapshot(run, trained, profile) == 10
    profile.measure(SEARCH_SPACE.lowest[None], 1)
    assert _snapshot(run_in(tmp_path, evaluations=60), trained, profile) == 11
    assert _snapshot(run, SimpleNamespace(origin="another"), profile) == 11


def latencies(milliseconds):
    return LatencyTable(np.full((2, 5, 5), milliseconds), 0.0, B)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": 31},
        {"seed": 1},
        {"search_space": make_search_space(space_of(2), pins=[("l0", (4, 4))])},
        {"search_space": make_search_space(space_of(2), groups=[("both", "l*")])},
        {"search_space": make_search_space(space_of(2), min_bits=3)},
        {"search_space": make_search_space(space_of(2), same_bits=["l1"])},
        {"latencies": latencies(2.0)},
        {"latencies": None},
    ],
)
def test_another_request_starts_from_a_snapshot_of_its_own(tmp_path, change):
    (tmp_path / "search").mkdir()
    trained = SimpleNamespace(origin="o")
    profile = Profile(
        SEARCH_SPACE.space, tmp_path / "p.jsonl", {}, lambda cs, part: np.ones(len(cs))
    )
    profile.measure(np.stack([SEARCH_SPACE.uniform(w, 4) for w in B]), 0)
    asked = {"latencies": latencies(1.0)}
    assert _snapshot(run_in(tmp_path, **asked), trained, profile) == 5
    profile.measure(SEARCH_SPACE.lowest[None], 1)
    assert _snapshot(run_in(tmp_path, **asked), trained, profile) == 5
    assert _snapshot(run_in(tmp_path, **asked | change), trained, profile) == 6


@pytest.mark.parametrize(
    "change",
    [{"sha256": "0"}, {"length": 3}, {"length": "5"}, {"length": None}, {"length": 9}],
)
def test_a_snapshot_that_is_not_of_this_profile_is_replaced(tmp_path, change):
    (tmp_path / "search").mkdir()
    trained = SimpleNamespace(origin="o")
    profile = Profile(
        SEARCH_SPACE.space, tmp_path / "p.jsonl", {}, lambda cs, part: np.ones(len(cs))
    )
    profile.measure(np.stack([SEARCH_SPACE.uniform(w, 4) for w in B]), 0)
    run, file = run_in(tmp_path), tmp_path / "search" / "snapshot.json"
    _snapshot(run, trained, profile)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    profile.measure(SEARCH_SPACE.lowest[None], 1)
    assert _snapshot(run, trained, profile) == 6
    assert json.loads(file.read_text())["sha256"] == profile.digest(6)


class Progresses:
    """A log that keeps how much each line of progress announced, and how much of it came."""

    def __init__(self):
        self.said, self.totals, self.advanced = [], {}, {}

    def info(self, message):
        self.said.append(message)

    @contextmanager
    def progress(self, task, total, done=0):
        self.totals[task], self.advanced[task] = (total, done), 0

        def advance():
            self.advanced[task] += 1

        yield SimpleNamespace(advance=advance)


def test_progress_counts_what_remains_where_a_profile_was_copied(tmp_path, monkeypatch):
    def evaluate(configurations, part):
        return np.exp(-configurations.sum(axis=(1, 2)) / 3 - part)

    def proposed(folder, budgets):
        folder.mkdir(exist_ok=True)
        profile = Profile(SEARCH_SPACE.space, folder / "search" / "profile.jsonl", {}, evaluate)
        monkeypatch.setattr(profile_task, "open_profile", lambda *_: profile)
        log = Progresses()
        budgets = [Budget(f"{x}G", (Limit(KIND, x),)) for x in budgets]
        run = run_in(folder, log=log, budgets=budgets)
        profile_task.propose_from_profile(
            run, SimpleNamespace(origin="o"), SimpleNamespace(proposing=(1, 2))
        )
        return log, len(profile)

    first, length = proposed(tmp_path / "one", [60.0, 34.0])
    measured = first.totals["profile"][0]
    assert 2 * 25 < measured < length  # 25 uniform pairs and more, on both parts
    assert first.totals == {"profile": (measured, 0), "search": (2, 0)}
    assert first.advanced == {"profile": measured, "search": 2}
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    again, _ = proposed(tmp_path / "two", [34.0])
    assert again.totals == {"profile": (0, 0), "search": (1, 0)}
    assert again.advanced == {"profile": 0, "search": 1}
    # A part of the profile is there.
    file = tmp_path / "two" / "search" / "profile.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:11]))
    last, _ = proposed(tmp_path / "two", [34.0])
    assert last.totals["profile"] == (measured - 10, 0)
    assert last.advanced["profile"] == measured - 10
