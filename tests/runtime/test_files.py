"""Records of lines and files written in one go, whenever the writer dies."""

import errno
import json

import pytest

from rfquant_jax.errors import UserError
from rfquant_jax.runtime import files
from rfquant_jax.runtime.files import LineRecord, parse_json, read_text, replacing

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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200 + "]" * 200, "nested too deeply"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": [{"b\x7f": 1, "b\x7f": 2}]}', r"'b\\x7f' appears twice"),
        ("1" * 5000, "Exceeds the limit"),
        ("{", "Expecting property name"),
    ],
)
def test_json_from_elsewhere_is_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as error:
        parse_json(text)
    assert str(error.value).isprintable()


def test_json_within_the_limits_is_read():
    text = "[" * 90 + '{"a": 1.5, "b": [true, null, "x"]}' + "]" * 90
    assert parse_json(text) == json.loads(text)


def test_a_text_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_TEXT", 2**20)
    (tmp_path / "t").write_bytes(b" " * 2**20)
    assert len(read_text(tmp_path / "t")) == 2**20
    (tmp_path / "t").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(UserError, match="t: is larger than 1 MiB"):
        read_text(tmp_path / "t")


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def fill_the_disk():
        with replacing(path) as temporary:
            temporary.write_text("part")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as error:
        fill_the_disk()
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
