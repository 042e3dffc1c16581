"""Latency tables: from a file to a cost, and what is wrong with a file."""

import csv
import json

import numpy as np
import pytest

from rfquant_jax.errors import UserError
from rfquant_jax.quant.space import Space
from rfquant_jax.search.budget import CostKind, parse_budget
from rfquant_jax.search.latency import COLUMNS, LatencyTable, read_latencies

SPACE = Space(("a", "b"), (4, 3, 2), np.asarray([[1, 1, 1], [1, 1, 0]], bool))


def entries():
    """Milliseconds that tell layer and bits: 100 for a, 200 for b, plus 10 w + a."""
    return [
        {"layer": name, "w_bits": w, "a_bits": a, "milliseconds": base + 10 * w + a}
        for name, base, bits in (("a", 100, (4, 3, 2)), ("b", 200, (4, 3)))
        for w in bits
        for a in bits
    ]


def written(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.json"])
def test_a_table_is_a_cost(tmp_path, name):
    stem = {"layer": "stem", "w_bits": 8, "a_bits": 8, "milliseconds": 1000}
    more = {"layer": "a", "w_bits": 8, "a_bits": 4, "milliseconds": 1}  # not a candidate
    path = written(tmp_path / name, [*entries(), stem, more])
    latency = read_latencies(path, SPACE, ["stem", "fc"])
    assert latency(np.asarray([[2, 4], [3, 4]])) == 1000 + (100 + 24) + (200 + 34)
    budget = parse_budget("1360ms", {"ms": CostKind("ms", "ms", latency)}, SPACE)
    assert budget.fits(np.asarray([[2, 4], [3, 4]]))
    assert not budget.fits(np.asarray([[4, 4], [3, 4]]))
    assert budget.as_dict()["budget_ms"] == 1360
    assert budget.describe(np.asarray([[2, 4], [3, 4]])) == "1358 ms"


def test_a_table_needs_the_candidates_of_activations_only(tmp_path):
    own = np.asarray([[1, 0, 0], [1, 1, 0]], bool)
    space = Space(SPACE.names, SPACE.candidates, SPACE.full_mask, own, ((4, 3, 2), (4, 3)))
    needed = [r for r in entries() if r["a_bits"] == 4 or (r["layer"], r["a_bits"]) == ("b", 3)]
    latency = read_latencies(written(tmp_path / "t.csv", needed), space, [])
    assert latency(np.asarray([[2, 4], [4, 3]])) == (100 + 24) + (200 + 43)
    assert np.isnan(latency.milliseconds).sum() == 2 * 9 - 3 - 4
    with pytest.raises(UserError, match="lacks b w4a3"):
        read_latencies(written(tmp_path / "u.csv", needed[:-3] + needed[-2:]), space, [])


def changed(index, **values):
    return [row | values if i == index else row for i, row in enumerate(entries())]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (entries()[1:], "lacks a w4a4"),
        ([], "lacks a w4a4, a w4a3, a w4a2, a w3a4, a w3a3 and 8 more"),
        ([*entries(), entries()[0]], "entry 14: layer a at 4 and 4 bits appears twice"),
        (changed(2, layer="c"), "entry 3: the network has no layer 'c'"),
        (changed(0, milliseconds=-1), "entry 1: milliseconds = -1.0: must be finite and not neg"),
        (changed(0, milliseconds=float("nan")), "milliseconds = nan"),
        (changed(0, milliseconds="fast"), "entry 1: must hold whole bit-widths and a number"),
        (changed(0, w_bits="4.5"), "entry 1: must hold whole bit-widths"),
        (changed(0, w_bits=float("inf")), "entry 1: must hold whole bit-widths"),
        (changed(0, milliseconds=10**400), "entry 1: must hold whole bit-widths and a number"),
        (changed(0, a_bits=None), "entry 1: has no a_bits"),
        (
            [{"layer": "fc", "w_bits": 8, "a_bits": 8, "milliseconds": 1}] * 2,
            "layer fc appears tw",
        ),
        ({"a": 1}, "must be a JSON list"),
        ([1], "must be a JSON list"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_latencies(written(tmp_path / "t.json", rows), SPACE, ["fc"])


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"`latency_table`: .*no\.csv: cannot be read"):
        read_latencies(tmp_path / "no.csv", SPACE, [])
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(UserError, match=r"neither a \.csv file nor JSON"):
        read_latencies(tmp_path / "t.json", SPACE, [])
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not text"):
        read_latencies(tmp_path / "t.csv", SPACE, [])


def test_spreadsheets_mark_the_beginning_of_their_files(tmp_path):
    path = written(tmp_path / "t.csv", entries())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    path = path.rename(tmp_path / "T.CSV")
    assert read_latencies(path, SPACE, [])(np.asarray([[2, 4], [3, 4]])) == (100 + 24) + (200 + 34)


def test_tenths_add_up_as_users_expect():
    table = LatencyTable(np.full((3, 3, 3), 0.1), 0.0, (4, 3, 2))
    assert table(np.full((3, 2), 4)) == 0.3
