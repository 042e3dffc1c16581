"""The tables a run prints."""

import re

from rfquant_jax.report.tables import results_table, table


def row(kind, name, **figures):
    return {"kind": kind, "name": name, "bitops_g": 0.5, "size_mb": 2.25, "top1": 91.0} | figures


def test_a_table_is_aligned_and_shows_a_dash_for_what_is_missing():
    text = table([{"a": "x", "b": 1.25}, {"a": "longer", "b": None}], {"a": "name", "b": "value"})
    assert text.splitlines() == [
        "name    value",
        "-------------",
        "x        1.25",
        "longer      -",
    ]


def gain(over, top1, points, loss, half):
    return {
        "over": over,
        "top1": top1,
        "top1_interval": [top1 - points, top1 + points],
        "cross_entropy": loss,
        "cross_entropy_interval": [loss - half, loss + half],
    }


def test_each_budget_has_the_best_uniform_configuration_and_paired_gains():
    rows = [
        row("uniform", "w4a4", budget_g=0.6, budget_mb=None),
        row(
            "searched",
            "1*w4a4",
            top1=93.256,
            gain=gain("w4a4", 2.256, 1.5, -0.0312, 0.0204),
            gain_pair=gain("w5a3", -0.25, 0.754, 0.01, 0.02),
        ),
        row("uniform", "w3a3", top1=80.0, budget_g=None, budget_mb=2.3),
        row("searched", "2.3MB", gain=None, gain_pair=None),
    ]
    text = results_table({"full_precision": {"top1": 92.5}, "rows": rows})
    lines = [re.split(" {2,}", line) for line in text.splitlines()]
    assert lines[0] == ["full precision: top-1 92.50 %"]
    assert lines[1] == [
        "budget",
        "GBitOPs",
        "size (MB)",
        "best uniform (%)",
        "searched (%)",
        "paired gain (points)",
        "in cross-entropy",
        "over best pair (points)",
    ]
    assert lines[3] == [
        "1*w4a4",
        "0.5",
        "2.25",
        "w4a4 91.00",
        "93.26",
        "+2.26 ± 1.50",
        "-0.031 ± 0.020",
        "w5a3 -0.25 ± 0.75",
    ]
    assert lines[4] == ["2.3MB", "0.5", "2.25", "-", "91.00", "-", "-", "-"]
    assert len(lines) == 5
    without = results_table({"full_precision": None, "rows": rows})
    assert without == text.partition("\n")[2]


def test_the_uniform_configuration_of_a_gain_may_be_missing_from_the_rows():
    """Where latencies decide, only a pair of unequal bits may be within a budget."""
    rows = [row("searched", "5ms", latency_ms=4.5, gain=gain("w5a3", 1.5, 1.0, -0.1, 0.05))]
    line = results_table({"full_precision": None, "rows": rows}).splitlines()[-1]
    assert re.split(" {2,}", line)[3:6] == ["w5a3 89.50", "91.00", "+1.50 ± 1.00"]


def test_latencies_have_a_column_where_they_were_measured():
    rows = [row("uniform", "w4a4", latency_ms=5.5), row("searched", "6ms", latency_ms=5.25)]
    lines = results_table({"full_precision": None, "rows": rows}).splitlines()
    assert lines[0].endswith("latency (ms)")
    assert lines[2].split()[-1] == "5.25"
    uniform = results_table({"full_precision": None, "rows": rows[:1]}).splitlines()
    headings = ["configuration", "GBitOPs", "size (MB)", "latency (ms)", "top-1 (%)"]
    assert re.split(" {2,}", uniform[0]) == headings
    assert uniform[2].split() == ["uniform", "w4a4", "0.5", "2.25", "5.5", "91.00"]


def test_without_a_search_full_precision_and_uniform_configurations_are_listed():
    given = {"full_precision": {"top1": 92.5}, "rows": [row("uniform", "w4a4")]}
    lines = results_table(given).splitlines()
    assert re.split(" {2,}", lines[0]) == ["configuration", "GBitOPs", "size (MB)", "top-1 (%)"]
    assert lines[2].split() == ["full", "precision", "-", "-", "92.50"]
    assert lines[3].split() == ["uniform", "w4a4", "0.5", "2.25", "91.00"]
    alone = results_table({"full_precision": {"top1": 92.5}, "rows": []})
    assert alone.splitlines()[0].split() == ["configuration", "top-1", "(%)"]
    without = results_table({"full_precision": None, "rows": [row("uniform", "w4a4")]})
    assert "budget" not in without
    assert "full precision" not in without
