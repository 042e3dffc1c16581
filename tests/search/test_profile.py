"""The file of measured divergences: asked once, kept for good, and not trusted."""

import hashlib
import json

import numpy as np
import pytest

from rfquant_jax.search.profile import Profile
from tests.search.landscapes import space_of

SPACE = space_of(2)
HEADER = {"checkpoint": "c", "images": 5}


def configuration(*bits):
    return np.asarray(bits, np.int32).reshape(2, 2)


ONE, TWO, THREE = configuration(6, 6, 6, 6), configuration(6, 5, 4, 3), configuration(2, 2, 2, 6)


class Evaluator:
    """Counts what it is asked, and answers by the sum of the bits and the part."""

    def __init__(self):
        self.asked = []

    def __call__(self, configurations, part):
        self.asked.append((part, configurations.tolist()))
        return configurations.sum(axis=(1, 2)) + 100.0 * part


def opened(path, evaluate=None, header=HEADER, **options):
    return Profile(SPACE, path, header, evaluate, **options)


def measured(path):
    """A profile of three configurations, and one of them on another part."""
    profile = opened(path, Evaluator())
    profile.measure(np.stack([ONE, TWO, THREE]), 0)
    profile.measure(TWO[None], 1)
    return profile


def test_each_configuration_is_evaluated_once_on_each_part(tmp_path):
    evaluate = Evaluator()
    profile = opened(tmp_path / "p.jsonl", evaluate)
    assert profile.measure(np.stack([TWO, ONE, TWO]), 0).tolist() == [18, 24, 18]
    assert evaluate.asked == [(0, [TWO.tolist(), ONE.tolist()])]
    assert profile.measure(np.stack([ONE, THREE]), 0).tolist() == [24, 12]
    assert evaluate.asked[1:] == [(0, [THREE.tolist()])]
    assert profile.measure(ONE[None], 1).tolist() == [124]
    assert len(profile) == 4
    again = opened(tmp_path / "p.jsonl", evaluate)
    assert again.measure(np.stack([ONE, TWO, THREE]), 0).tolist() == [24, 18, 12]
    assert again.measure(ONE[None], 1).tolist() == [124]
    assert len(evaluate.asked) == 3


def test_a_file_has_a_header_and_one_line_for_each_evaluation(tmp_path):
    measured(tmp_path / "deep" / "p.jsonl")
    lines = [json.loads(text) for text in (tmp_path / "deep" / "p.jsonl").read_text().splitlines()]
    # Letters stand for 6 5 4 3 2, weights before activations, layer by layer.
    assert lines == [
        HEADER,
        {"part": 0, "configuration": "aaaa", "divergence": 24.0},
        {"part": 0, "configuration": "abcd", "divergence": 18.0},
        {"part": 0, "configuration": "eeea", "divergence": 12.0},
        {"part": 1, "configuration": "abcd", "divergence": 118.0},
    ]


def test_chunks_are_evaluated_and_kept_one_by_one(tmp_path):
    evaluate = Evaluator()
    profile = opened(tmp_path / "p.jsonl", evaluate, chunk=2)
    seen = []
    profile.on_evaluation = lambda: seen.append(len(evaluate.asked))
    configurations = np.stack([configuration(6, 6, 6, b) for b in (6, 5, 4, 3, 2)])
    profile.measure(configurations, 0)
    assert [len(asked) for _, asked in evaluate.asked] == [2, 2, 1]
    assert seen == [1, 1, 2, 2, 3]


def test_a_file_alone_answers_what_it_holds_and_nothing_else(tmp_path):
    measured(tmp_path / "p.jsonl")
    before = (tmp_path / "p.jsonl").read_bytes()
    profile = opened(tmp_path / "p.jsonl")
    assert profile.measure(np.stack([THREE, TWO]), 0).tolist() == [12, 18]
    for unknown, part in ((configuration(6, 6, 6, 5), 0), (ONE, 1)):
        with pytest.raises(LookupError, match="no network to evaluate"):
            profile.measure(np.stack([TWO, unknown]), part)
    assert (tmp_path / "p.jsonl").read_bytes() == before


def test_what_is_not_a_number_is_remembered_as_such(tmp_path):
    answers = [np.asarray([np.nan, np.inf, 0.25])]
    profile = opened(tmp_path / "p.jsonl", lambda configurations, part: answers.pop())
    three = np.stack([ONE, TWO, THREE])
    first = profile.measure(three, 0)
    np.testing.assert_array_equal(first, [np.nan, np.nan, 0.25])
    assert [
        json.loads(text)["divergence"]
        for text in (tmp_path / "p.jsonl").read_text().splitlines()[1:]
    ] == [None, None, 0.25]
    again = opened(tmp_path / "p.jsonl")
    np.testing.assert_array_equal(again.measure(three, 0), first)
    np.testing.assert_array_equal(again.snapshot(0, 3)[1], first)


def test_values_come_back_to_the_bit(tmp_path):
    value = np.float64(np.float32(0.1)) / 3
    opened(tmp_path / "p.jsonl", lambda configurations, part: [value]).measure(ONE[None], 0)
    assert opened(tmp_path / "p.jsonl").measure(ONE[None], 0)[0] == value


def test_a_snapshot_is_what_the_first_lines_say_of_a_part(tmp_path):
    profile = measured(tmp_path / "p.jsonl")
    configurations, values = profile.snapshot(0, 2)
    assert configurations.tolist() == [ONE.tolist(), TWO.tolist()]
    assert values.tolist() == [24, 18]
    assert profile.snapshot(1, 4)[0].tolist() == [TWO.tolist()]
    nothing = profile.snapshot(1, 3)
    assert (nothing[0].shape, nothing[0].dtype, nothing[1].shape) == ((0, 2, 2), np.int32, (0,))


def test_the_digest_by_hand(tmp_path):
    profile = measured(tmp_path / "p.jsonl")
    text = b"0 aaaa 24.0\n0 abcd 18.0\n0 eeea 12.0\n1 abcd 118.0\n"
    assert profile.digest(4) == hashlib.sha256(text).hexdigest()
    assert profile.digest(1) == hashlib.sha256(b"0 aaaa 24.0\n").hexdigest()
    assert opened(tmp_path / "p.jsonl").digest(3) == profile.digest(3)
    profile.measure(configuration(3, 3, 3, 3)[None], 0)
    assert profile.digest(4) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("header", [HEADER | {"images": 6}, HEADER | {"more": 1}, {}])
def test_another_header_forgets_the_file(tmp_path, header):
    measured(tmp_path / "p.jsonl")
    profile = opened(tmp_path / "p.jsonl", header=header)
    assert len(profile) == 0
    with pytest.raises(LookupError):
        profile.measure(ONE[None], 0)
    assert (tmp_path / "p.jsonl").read_text() == json.dumps(header) + "\n"


@pytest.mark.parametrize(
    "damage",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b"\xff\xfe\n",
        b'{"part": 0, "configuration": "aaaa"}\n',
        b'{"part": 0, "configuration": "aaaf", "divergence": 1.0}\n',
        b'{"part": 0, "configuration": "aaaaa", "divergence": 1.0}\n',
        b'{"part": 0, "configuration": "", "divergence": 1.0}\n',
        b'{"part": 0, "configuration": 3, "divergence": 1.0}\n',
        b'{"part": 0, "configuration": null, "divergence": 1.0}\n',
        b'{"part": 0, "configuration": ["aa", "a", "a", "a"], "divergence": 1.0}\n',
        b'{"part": 0, "configuration": ["a", "a", "a", "a"], "divergence": 1.0}\n',
        b'{"part": "0", "configuration": "aaaa", "divergence": 1.0}\n',
        b'{"part": null, "configuration": "aaaa", "divergence": 1.0}\n',
        b'{"part": true, "configuration": "aaaa", "divergence": 1.0}\n',
        b'{"part": 0, "configuration": "aaaa", "divergence": "1.0"}\n',
        b'{"part": 0, "configuration": "aaaa", "divergence": true}\n',
        b'{"part": 0, "configuration": "aaaa", "divergence": 1' + b"0" * 400 + b"}\n",
        b'{"configuration": "aaaa", "divergence": 1.0}\n',
        b'{"iteration": 0, "configurations": ["aaaa"], "errors": [0.5]}\n',
        b'{"part": 0, "configuration": "aaaa", "diverg',
    ],
)
def test_a_damaged_or_foreign_line_ends_what_is_believed(tmp_path, damage):
    path = tmp_path / "p.jsonl"
    measured(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], damage, *lines[3:]]))
    evaluate = Evaluator()
    profile = opened(path, evaluate)
    assert len(profile) == 2
    assert path.read_bytes() == b"".join(lines[:3])
    profile.measure(np.stack([ONE, TWO, THREE]), 0)
    profile.measure(TWO[None], 1)
    assert evaluate.asked == [(0, [THREE.tolist()]), (1, [TWO.tolist()])]
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"[1]\n", b"{", b"null\n"])
def test_a_file_of_something_else_is_forgotten(tmp_path, content):
    (tmp_path / "p.jsonl").write_bytes(content)
    assert len(opened(tmp_path / "p.jsonl")) == 0
    assert (tmp_path / "p.jsonl").read_text() == json.dumps(HEADER) + "\n"
