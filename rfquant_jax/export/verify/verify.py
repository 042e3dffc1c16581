"""Verifies exported files: their results are compared with those of the evaluation.

`compare_files` runs every file in its own runtime. `disagreements` decides whether what it found is
rounding or a broken file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rfquant_jax.export import format_names
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.verify.compare import (
    Agreement,
    CodesOf,
    compare_codes,
    compare_predictions,
)
from rfquant_jax.export.verify.reference import ReferenceModel
from rfquant_jax.export.verify.runners import Runner, missing_runtime

# Batch size: all activations in float64 and the codes of all layers are kept.
LARGEST_BATCH = 16
# Formats that multiply integers and round like the integer runtime. Other formats round floats in
# their own way, so only their predictions are checked.
EXACT = (format_names.ONNX_FAST, format_names.TFLITE, format_names.QONNX)
LARGEST_OFF_TIE = 0.01  # in steps; rounding errors of float32 are far smaller
LARGEST_FLOAT64_DIFFERENCE = 1e-6  # of a logit, relative to the largest; wrong scales exceed this

# batches() -> {"image": float32[N, H, W, C], the network's input, "label": int[N]}; the label -1
# marks images to ignore.
Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class Limits:
    """Largest allowed fractions of differences; a single difference is always allowed.

    Attributes:
      max_unequal: of the predictions of the integer runtime, compared with the evaluation in
        float64.
      max_unequal_float: of the predictions of other formats, compared with the evaluation in
        float32. They round floats in their own way; only a broken file exceeds 0.005.
      max_differing_codes: of the codes of each layer of the evaluation in float32, and of the codes
        of a fast ONNX, LiteRT or QONNX file, all layers together. In float64, none may differ.
    """

    max_unequal: float = 0.001
    max_unequal_float: float = 0.005
    max_differing_codes: float = 1e-5


def compare_files(
    kinds: Iterable[str],
    runners: Mapping[str, Runner],
    model: IntegerModel,
    stored: IntegerModel,
    references: tuple[ReferenceModel, ReferenceModel],
    batches: Batches,
    code_batches: Batches,
) -> dict:
    """Runs the files of one configuration and the evaluation on the same images.

    Args:
      kinds: the formats of the files.
      runners: the files in their runtimes by format, from `open_all`; a format is missing if its
        runtime is not installed.
      model: the model that they were written from.
      stored: the same as a file of the integer format holds it.
      references: the evaluation in float32 and in float64.
      batches: the images to compare predictions on.
      code_batches: the images to compare the codes of every layer on.

    Returns:
      {"evaluation", "formats", "differing_codes", "float64_difference"}, as in `export.json`. A
      format whose runtime is not installed has the entry "not_verified" with the reason.

    Raises:
      UserError: a file fails when it runs.
    """
    reference, exact = references
    codes = {
        "float32": compare_codes(stored, reference, code_batches()),
        "float64": compare_codes(model, exact, code_batches()),
    }
    predictors = {kind: runner.predict for kind, runner in runners.items()}
    found = compare_predictions(reference, exact, predictors, batches())
    formats = {
        kind: compared(kind, stored, runners.get(kind), found.formats.get(kind), code_batches)
        for kind in kinds
    }
    differing = {
        precision: {layer: vars(count) for layer, count in counted.layers.items()}
        for precision, counted in codes.items()
    }
    return {
        "evaluation": found.evaluation.as_dict(),
        "formats": formats,
        "differing_codes": differing,
        "float64_difference": codes["float64"].logits,
    }


def compared(
    kind: str,
    stored: IntegerModel,
    runner: Runner | None,
    found: Agreement | None,
    code_batches: Batches,
) -> dict:
    """The entry of one format: its predictions and, where its runtime shows them, its codes."""
    if runner is None or found is None:
        return {"not_verified": f"{missing_runtime(kind)} is not installed"}
    if runner.codes is None:
        return found.as_dict()
    codes: CodesOf = runner
    return found.as_dict() | {"differing_codes": compare_codes(stored, codes, code_batches()).total}


def disagreements(limits: Limits, result: Mapping) -> Iterator[str]:
    """The problems of a configuration's files, as sentence fragments; empty if there are none.

    Args:
      result: from `compare_files`.
    """
    verified = {k: row for k, row in result["formats"].items() if "not_verified" not in row}
    for kind, row in verified.items():
        yield from _unequal(kind, row, limits)
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


def _unequal(kind: str, row: Mapping, limits: Limits) -> Iterator[str]:
    # The integer runtime is compared in float64, so that rounding errors of the evaluation do not
    # count against it. Other formats have their own rounding errors.
    integer = kind == format_names.INTEGER
    field = "max_unequal" if integer else "max_unequal_float"
    share = getattr(limits, field)
    equal = row["equal_exact_percent" if integer else "equal_percent"]
    unequal, most = round((100 - equal) / 100 * row["images"]), _allowed(share, row["images"])
    if unequal > most:
        who = "the integer runtime" if integer else kind
        yield (
            f"{who} and the evaluation disagree on {unequal} of {row['images']} images; "
            f"`{field}` = {share:g} allows {most}"
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
