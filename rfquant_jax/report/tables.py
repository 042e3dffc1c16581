"""The closing table of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Headings of the costs that every configuration has.
COSTS = {"bitops_g": "GBitOPs", "size_mb": "size (MB)"}


def table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> str:
    """Rows as aligned text.

    Args:
      columns: {key in the rows: heading}; a missing value is shown as a dash.
    """
    cells = [list(columns.values())]
    cells += [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    # The first column is text and reads from the left, the others are numbers.
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def results_table(results: Mapping) -> str:
    """The table of `results.json`: full precision, then uniform and searched configurations."""
    rows = []
    if results["full_precision"] is not None:
        rows.append({"name": "full precision"} | results["full_precision"])
    rows += [row | {"name": f"{row['kind']} {row['name']}"} for row in results["rows"]]
    shown = [row | {"top1": f"{row['top1']:.2f}"} for row in rows]
    figures = {"budget_g": "budget (GBitOPs)", "budget_mb": "budget (MB)"}
    figures |= {"budget_ms": "budget (ms)"}
    figures |= COSTS | {"latency_ms": "latency (ms)"}
    used = {k: v for k, v in figures.items() if any(row.get(k) is not None for row in rows)}
    return table(shown, {"name": "configuration"} | used | {"top1": "top-1 (%)"})
