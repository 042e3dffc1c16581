"""Records of lines and files written in one go, whenever the writer dies."""

import json

import pytest

from rfquant_jax.files import LineRecord, replacing

HEADER = {"of": "one"}


def record(path, header=HEADER):
    return LineRecord(path, header, lambda line: "value" in line)


def test_a_record_remembers_what_was_added(tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    first = record(path)
    for value in (1, 2, 3):
        first.append({"value": value})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        HEADER,
        {"value": 1},
        {"value": 2},
        {"value": 3},
    ]
    again = record(path)
    assert again.lines == [{"value": 1}, {"value": 2}, {"value": 3}]
    again.cut(1)
    again.append({"value": 4})
    assert record(path).lines == [{"value": 1}, {"value": 4}]


@pytest.mark.parametrize("rest", ['{"val', "[]\n", '{"other": 1}\n{"value": 9}\n', "\x00\n"])
def test_a_record_ends_before_the_first_bad_line(tmp_path, rest):
    path = tmp_path / "r.jsonl"
    record(path).append({"value": 1})
    with path.open("a") as file:
        file.write(rest)
    again = record(path)
    assert again.lines == [{"value": 1}]
    again.append({"value": 2})
    assert record(path).lines == [{"value": 1}, {"value": 2}]


def test_a_record_of_something_else_is_forgotten(tmp_path):
    path = tmp_path / "r.jsonl"
    record(path).append({"value": 1})
    assert record(path, {"of": "another"}).lines == []
    assert record(path).lines == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as temporary:
        temporary.write_text(None)
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
