"""The record of evaluations: killed at any point, a search ends as if it had not been."""

import numpy as np
import pytest

from rfquant_jax.search.record import Recorder
from tests.search.landscapes import harm, problem, space_of
from tests.search.test_algorithms import ALGORITHMS

HEADER = {"checkpoint": "x", "metric": "error"}
WEIGHTS = (3, 1, 2)


class KilledError(Exception):
    """As by a signal."""


def evaluator(dies_after=None):
    """Counts its calls, and fails like a killed process."""
    calls = []

    def evaluate(configurations, iteration):
        if len(calls) == dies_after:
            raise KilledError
        calls.append(iteration)
        return harm(WEIGHTS, configurations) + np.random.default_rng(iteration).random()

    return evaluate, calls


def run(name, path, dies_after=None, header=HEADER):
    evaluate, calls = evaluator(dies_after)
    recorder = Recorder(evaluate, space_of(3), path, header)
    found = ALGORITHMS[name](problem(WEIGHTS, 60.0, 30.0, evaluate=recorder))
    return found, calls, recorder


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_killed_search_ends_as_an_undisturbed_one(name, tmp_path):
    whole, calls, reference = run(name, tmp_path / "whole.jsonl")
    for after in sorted({0, 1, len(calls) // 2, len(calls) - 1}):
        path = tmp_path / f"{after}.jsonl"
        with pytest.raises(KilledError):
            run(name, path, dies_after=after)
        if after % 2:  # killed in the middle of a line, too
            path.write_text(path.read_text()[:-7])
        found, again, recorder = run(name, path)
        assert len(again) == len(calls) - after + after % 2
        for one, other in zip(found, whole, strict=True):
            np.testing.assert_array_equal(one, other)
        assert path.read_text() == (tmp_path / "whole.jsonl").read_text()
        assert [v.error for v in recorder.visits] == [v.error for v in reference.visits]
    assert run(name, tmp_path / "whole.jsonl")[1] == []


def test_the_record_of_another_network_is_forgotten(tmp_path):
    path = tmp_path / "r.jsonl"
    _, calls, _ = run("greedy", path)
    assert run("greedy", path, header=HEADER | {"checkpoint": "y"})[1] == calls


def test_a_record_is_dropped_from_where_the_questions_differ(tmp_path):
    path = tmp_path / "r.jsonl"
    evaluate, calls = evaluator()
    first, second, other = (np.full((1, 3, 2), bits) for bits in (6, 5, 4))
    recorder = Recorder(evaluate, space_of(3), path, HEADER)
    for number, question in enumerate((first, second)):
        recorder(question, number)
    again = Recorder(evaluate, space_of(3), path, HEADER)
    assert again.left == 2
    again(first, 0)
    assert len(calls) == 2
    again(other, 1)
    assert len(calls) == 3
    assert again.left == 0
    assert len(path.read_text().splitlines()) == 3


def test_failed_evaluations_are_remembered_as_such(tmp_path):
    answers = []
    for _ in range(2):
        recorder = Recorder(
            lambda c, i: np.asarray([np.nan, 0.5]), space_of(1), tmp_path / "r.jsonl", HEADER
        )
        answers.append(recorder(np.full((2, 1, 2), 4), 0))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.isnan(answers[1][0])


@pytest.mark.parametrize("damage", [b"[]\n", b"5\n", b"{}\n", b"\xff\xfe\n"])
def test_a_damaged_line_ends_the_record(tmp_path, damage):
    path = tmp_path / "r.jsonl"
    whole, calls, _ = run("greedy", path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], damage, *lines[3:]]))
    found, again, _ = run("greedy", path)
    assert len(again) == len(calls) - 2
    np.testing.assert_array_equal(found, whole)
