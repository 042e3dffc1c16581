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


def test_only_the_budgets_that_were_asked_for_get_a_column():
    both = [
        row("uniform", "w4a4", budget_g=0.6, budget_mb=None),
        row("searched", "2.3MB", budget_g=None, budget_mb=2.3),
    ]
    lines = results_table({"full_precision": {"top1": 92.5}, "rows": both}).splitlines()
    headings = ["configuration", "budget (GBitOPs)", "budget (MB)", "GBitOPs", "size (MB)"]
    assert re.split(" {2,}", lines[0]) == [*headings, "top-1 (%)"]
    assert lines[2].split() == ["full", "precision", "-", "-", "-", "-", "92.50"]
    assert lines[3].split() == ["uniform", "w4a4", "0.6", "-", "0.5", "2.25", "91.00"]
    assert lines[4].split() == ["searched", "2.3MB", "-", "2.3", "0.5", "2.25", "91.00"]
    alone = results_table({"full_precision": {"top1": 92.5}, "rows": []})
    assert alone.splitlines()[0].split() == ["configuration", "top-1", "(%)"]
    without = results_table({"full_precision": None, "rows": [row("uniform", "w4a4")]})
    assert "budget" not in without
    assert "full precision" not in without
