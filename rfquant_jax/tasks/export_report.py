"""What the task `export` makes of its comparisons: a table, or an error."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from rfquant_jax.errors import UserError
from rfquant_jax.export import files
from rfquant_jax.report import table

LARGEST_OFF_TIE = 0.01  # in steps: rounding errors of float32 stay far below


def refuse_disagreement(limits: ConfigDict, results: Mapping[str, dict]) -> None:
    """Makes sure that the integer runtime does what the evaluation does.

    Args:
      limits: the config's section `export`.
      results: by configuration, as `export.json` has them.

    Raises:
      UserError: predictions or codes differ beyond the limits.
    """
    for name, result in results.items():
        # In float64, or the evaluation's own rounding errors would be counted against the model.
        unequal = 100 - result["formats"][files.INTEGER]["equal_exact_percent"]
        if unequal > 100 * limits.max_unequal:
            raise UserError(
                f"export of {name}: the integer runtime predicts otherwise than the evaluation on "
                f"{unequal:.3f} % of the images; config.export.max_unequal allows "
                f"{100 * limits.max_unequal:.3f} %"
            )
        for precision, counts in result["differing_codes"].items():
            refuse_codes(limits, f"export of {name}, {precision}", counts)


def refuse_codes(limits: ConfigDict, where: str, counts: Mapping[str, dict]) -> None:
    """Makes sure that codes differ from the evaluation's no more than rounding explains.

    Args:
      limits: the config's section `export`.
      where: names the model in an error.
      counts: by layer, what `verify.CodeCount` holds.

    Raises:
      UserError: too many differ, or one differs far from where rounding turns over.
    """
    different = sum(count["different"] for count in counts.values())
    share = different / max(sum(count["total"] for count in counts.values()), 1)
    if share > limits.max_differing_codes:
        raise UserError(
            f"{where}: {share:.2e} of the codes differ from the evaluation's; "
            f"config.export.max_differing_codes allows {limits.max_differing_codes:.2e}"
        )
    for layer, count in counts.items():
        if count["off_tie"] > LARGEST_OFF_TIE:
            raise UserError(
                f"{where}: codes of layer {layer} differ from the evaluation's by more than "
                f"rounding: {count['off_tie']:.3g} steps from a tie"
            )


def export_table(content: Mapping) -> str:
    """The table of `export.json`."""
    rows, whole = [], content["float32_bytes"]
    for name, result in content["configurations"].items():
        rows.append({"name": f"{name} evaluation"} | result["evaluation"] | {"bytes": whole})
        rows += [{"name": f"{name} {kind}"} | row for kind, row in result["formats"].items()]
    if "bundle" in content:
        rows.append({"name": "bundle"} | content["bundle"])
    rows = [row | {"ratio": f"{whole / row['bytes']:.2f}"} for row in rows]
    columns = {
        "name": "exported",
        "images": "images",
        "top1": "top-1 (%)",
        "equal_percent": "equal (%)",
        "equal_exact_percent": "to float64 (%)",
        "largest_difference": "logits differ",
        "bytes": "bytes",
        "ratio": "float32 / this",
    }
    return table(rows, columns)
