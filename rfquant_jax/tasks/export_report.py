"""The table of the task `export`, and the check of its comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from rfquant_jax.export import files
from rfquant_jax.report.tables import table

# Formats with integer kernels. Other formats compute in floating point with their own rounding, so
# only their predictions are checked.
EXACT = (files.ONNX_FAST, files.TFLITE)
LARGEST_OFF_TIE = 0.01  # in steps; rounding errors of float32 are far smaller
LARGEST_FLOAT64_DIFFERENCE = 1e-6  # of a logit, relative to the largest; wrong scales exceed this


def disagreements(limits: ConfigDict, result: Mapping) -> Iterator[str]:
    """The problems of a configuration's files, as sentence fragments; empty if there are none.

    Args:
      limits: the config section `export`.
      result: the entry of one configuration in `export.json`.
    """
    verified = {k: row for k, row in result["formats"].items() if "not_verified" not in row}
    for kind, row in verified.items():
        # The integer runtime is compared in float64, so that rounding errors of the evaluation do
        # not count against it. Other formats have their own rounding errors.
        integer = kind == files.INTEGER
        field = "max_unequal" if integer else "max_unequal_float"
        equal = row["equal_exact_percent" if integer else "equal_percent"]
        unequal = round((100 - equal) / 100 * row["images"])
        if unequal > _allowed(limits[field], row["images"]):
            who = "the integer runtime" if integer else kind
            yield (
                f"{who} and the evaluation disagree on {unequal} of {row['images']} "
                f"images; config.export.{field} = {limits[field]:g} allows "
                f"{_allowed(limits[field], row['images'])}"
            )
        if kind in EXACT and "differing_codes" in row:
            yield from _codes_of_format(kind, row["differing_codes"], limits.max_differing_codes)
    for precision, counts in result["differing_codes"].items():
        share = 0.0 if precision == "float64" else limits.max_differing_codes
        yield from _differing_codes(precision, counts, share)
    if not result["float64_difference"] <= LARGEST_FLOAT64_DIFFERENCE:
        yield (
            "fed the evaluation's codes in float64, the logits differ by "
            f"{result['float64_difference']:.2e} of the largest"
        )


def _codes_of_format(kind: str, count: Mapping, share: float) -> Iterator[str]:
    most = _allowed(share, count["total"])
    where = f"{kind} and the integer runtime compute different codes"
    if count["different"] > most:
        yield f"{where}: {count['different']} of {count['total']}, {most} may"
    elif count["off_tie"] > LARGEST_OFF_TIE:
        yield f"{where}, by more than rounding: {count['off_tie']:.3g} steps from a tie"


def _differing_codes(precision: str, counts: Mapping[str, Mapping], share: float) -> Iterator[str]:
    for layer, count in counts.items():
        most = _allowed(share, count["total"]) if share else 0
        where = f"in {precision}, codes of layer {layer} differ from the evaluation's"
        if count["different"] > most:
            yield f"{where}: {count['different']} of {count['total']}, {most} may"
        elif count["off_tie"] > LARGEST_OFF_TIE:
            yield f"{where} by more than rounding: {count['off_tie']:.3g} steps from a tie"


def _allowed(share: float, total: int) -> int:
    """The number of allowed differences: at least one, because a rounding tie can go either way."""
    return max(int(share * total), 1)


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
