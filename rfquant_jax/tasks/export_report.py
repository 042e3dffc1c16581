"""The table of the task `export`."""

from __future__ import annotations

from collections.abc import Mapping

from rfquant_jax.report.tables import table


def export_table(content: Mapping) -> str:
    """The table of `export.json`."""
    rows, whole = [], content["float32_bytes"]
    for name, result in content["configurations"].items():
        evaluation = {"name": f"{name} evaluation", "bytes": whole}
        rows.append(evaluation | result["evaluation"])
        rows += [_row(f"{name} {kind}", row) for kind, row in result["formats"].items()]
    if "bundle" in content:
        rows.append({"name": "bundle"} | content["bundle"])
    rows = [row | {"ratio": f"{row.get('ratio', 1):.2f}"} for row in rows]
    columns = {
        "name": "exported",
        "images": "images",
        "top1": "top-1 (%)",
        "equal_percent": "equal (%)",
        "equal_exact_percent": "to float64 (%)",
        "codes": "codes differ",
        "largest_difference": "logits differ",
        "bytes": "bytes",
        "ratio": "float32 / this",
    }
    return table(rows, columns)


def _row(name: str, found: Mapping) -> dict:
    codes = found.get("differing_codes")
    row = {"name": name} | found | {"codes": codes and codes["different"]}
    # Replaces the figures if a runtime is missing.
    return row | {"images": "not verified"} if "not_verified" in found else row
