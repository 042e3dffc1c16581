"""The figures at the top of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rfquant_jax.report.markup import Markup, tag
from rfquant_jax.report.numbers import BETTER, digits, fixed, interval, signed, verdict
from rfquant_jax.report.run_files import RunFiles
from rfquant_jax.report.sections.results import searched


def summary(run: RunFiles) -> Markup:
    """Full-precision accuracy, the largest gain, and for how many budgets the search gains.

    Raises:
      Unavailable: there is no readable `results.json`.
    """
    tiles = (
        tag("div", tag("dt", name), tag("dd", value, tag("small", about)))
        for name, value, about in _tiles(run.json("results.json"))
    )
    return tag("dl", *tiles, class_="tiles")


def _tiles(content: Mapping) -> Iterator[tuple[str, str, str]]:
    rows = searched(content)
    if content.get("full_precision"):
        images = next((row.get("images") for row in content["rows"]), None)
        about = f"{images} test images" if images else "test images"
        top1 = fixed(content["full_precision"]["top1"], digits(images))
        yield "Full precision, top-1", f"{top1} %", about
    compared = [row for row in rows if row.get("gain") and row["gain"].get("top1_interval")]
    if not compared:
        return
    best = max(compared, key=lambda row: row["gain"]["top1"])
    gain, places = best["gain"], digits(best.get("images"))
    bounds = interval(gain["top1_interval"], places, sign=True)
    about = f"points {bounds}, {best.get('budget', best['name'])} over {gain['over']}"
    yield "Largest gain over uniform bits", signed(gain["top1"], places), about
    verdicts = [verdict(r["gain"]["top1_interval"], higher_is_better=True) for r in compared]
    better = f"{verdicts.count(BETTER)} of {len(rows)}"
    yield "Budgets with a gain", better, "in top-1, larger than its 95 % interval"
