"""Result tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Headings of the costs of every configuration.
COSTS = {"bitops_g": "GBitOPs", "size_mb": "size (MB)"}


def table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> str:
    """Rows as aligned text.

    Args:
      columns: {key in the rows: heading}; a missing value is shown as a dash.
    """
    cells = [list(columns.values())]
    cells += [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    # The first column is text, left-aligned; the others are numbers.
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
    """The table of `results.json`: for each budget the uniform and the searched configuration.

    Without a search: full precision and the uniform configurations.
    """
    searched = [row for row in results["rows"] if row["kind"] == "searched"]
    full = results["full_precision"]
    if not searched:
        return _uniform_table(full, results["rows"])
    rows = [_budget_row(row) for row in searched]
    text = table(rows, _BUDGET_COLUMNS | _extra_costs(searched))
    return text if full is None else f"full precision: top-1 {full['top1']:.2f} %\n{text}"


_BUDGET_COLUMNS = {
    "name": "budget",
    "bitops_g": COSTS["bitops_g"],
    "size_mb": COSTS["size_mb"],
    "uniform": "best uniform (%)",
    "top1": "searched (%)",
    "gain": "paired gain (points)",
    "loss": "in cross-entropy",
    "pair": "over best pair (points)",
}


def _extra_costs(rows: Sequence[Mapping]) -> dict[str, str]:
    measured = any("latency_ms" in row for row in rows)
    return {"latency_ms": "latency (ms)"} if measured else {}


def _budget_row(row: Mapping) -> dict:
    gain, pair = row.get("gain"), row.get("gain_pair")
    shown = {**row, "top1": f"{row['top1']:.2f}", "gain": None}
    if gain:
        # The mean of paired differences equals the difference of means.
        shown["uniform"] = f"{gain['over']} {row['top1'] - gain['top1']:.2f}"
        shown["gain"] = paired(gain["top1"], gain["top1_interval"], 2)
        shown["loss"] = paired(gain["cross_entropy"], gain["cross_entropy_interval"], 3)
    if pair:
        interval = paired(pair["top1"], pair["top1_interval"], 2)
        shown["pair"] = f"{pair['over']} {interval}"
    return shown


def paired(mean: float, interval: Sequence[float], digits: int) -> str:
    """A paired difference with the half-width of its 95 % interval."""
    return f"{mean:+.{digits}f} ± {(interval[1] - interval[0]) / 2:.{digits}f}"


def _uniform_table(full: Mapping | None, given: Sequence[Mapping]) -> str:
    rows = [] if full is None else [{"name": "full precision"} | full]
    rows += [row | {"name": f"{row['kind']} {row['name']}"} for row in given]
    shown = [row | {"top1": f"{row['top1']:.2f}"} for row in rows]
    figures = COSTS | {"latency_ms": "latency (ms)"}
    used = {k: v for k, v in figures.items() if any(row.get(k) is not None for row in rows)}
    return table(shown, {"name": "configuration"} | used | {"top1": "top-1 (%)"})
