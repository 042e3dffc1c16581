"""Section "results": the best uniform and the searched configuration of each budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rfquant_jax.report import charts
from rfquant_jax.report.markup import Column, Markup, details, join, note, paragraph, table, tag
from rfquant_jax.report.numbers import (
    BETTER,
    EQUAL,
    MISSING,
    TOP1,
    WORSE,
    cost,
    digits,
    fixed,
    interval,
    signed,
    verdict,
)
from rfquant_jax.report.run_files import RunFiles

_SIGNS = {BETTER: "\N{BLACK UP-POINTING TRIANGLE}", WORSE: "\N{BLACK DOWN-POINTING TRIANGLE}"}
_HOW_TO_READ = (
    "Differences are paired: they are taken image by image on the test images. The interval is the "
    "mean difference \N{PLUS-MINUS SIGN} 1.96 standard errors. If it includes zero, the two "
    f"{EQUAL} on these images."
)


def results(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: there is no readable `results.json`.
    """
    content = run.json("results.json")
    found = searched(content)
    parts = [paragraph(_HOW_TO_READ)]
    if found:
        parts += [_by_budget(content, found), *_gains(found)]
    else:
        parts = [note("No budget was searched: results.json holds no searched configuration.")]
    return join([*parts, _everything(content)])


def searched(content: Mapping) -> list[dict]:
    """The rows of searched configurations in `results.json`."""
    return [row for row in content["rows"] if row["kind"] == "searched"]


def uniform_of(content: Mapping, row: Mapping) -> dict | None:
    """The row of the uniform configuration that a searched row's `gain` compares with."""
    gain = row.get("gain")
    same = [r for r in content["rows"] if r["kind"] == "uniform" and gain]
    return next((r for r in same if r["name"] == gain["over"]), None)


def badge(text: str | None) -> Markup | None:
    """A label for a verdict; None for None."""
    if text is None:
        return None
    class_ = {BETTER: "better", WORSE: "worse"}.get(text, "equal")
    return tag("span", f"{_SIGNS.get(text, '')} {text}".strip(), class_=f"badge {class_}")


def _by_budget(content: Mapping, rows: list[dict]) -> Markup:
    columns = [
        Column("budget", False),
        Column(f"best uniform within it: {TOP1} (%)"),
        Column(f"searched: {TOP1} (%)"),
        Column(f"difference in {TOP1} (points)"),
        Column("difference in cross-entropy"),
        Column(f"{TOP1} over the best pair wXaY (points)"),
        Column("cost of the searched"),
    ]
    body = [_budget_row(content, row) for row in rows]
    return table(columns, body, label="Results by budget", stacked=True)


def _budget_row(content: Mapping, row: Mapping) -> list[object]:
    gain, uniform, places = row.get("gain"), uniform_of(content, row), digits(row.get("images"))
    return [
        tag("code", row.get("budget", row["name"])),
        _top1(uniform, uniform["name"]) if uniform else _without(row),
        _top1(row, "searched"),
        _difference(gain, "top1", places, higher_is_better=True),
        _difference(gain, "cross_entropy", 4, higher_is_better=False),
        _difference(row.get("gain_pair"), "top1", places, higher_is_better=True),
        join(
            [_line(f"{cost(row.get('bitops_g'))} GBitOPs"), _line(f"{cost(row.get('size_mb'))} MB")]
        ),
    ]


def _without(row: Mapping) -> str:
    """The text instead of a uniform row; a null `gain` means that none is within the budget."""
    return "none fits" if row.get("gain", {}) is None else MISSING


def _top1(row: Mapping, name: str) -> Markup:
    places = digits(row.get("images"))
    value = tag("strong", fixed(row["top1"], places))
    return join([_small(name), value, _small(interval(row.get("top1_interval"), places))])


def _difference(
    gain: Mapping | None, key: str, decimals: int, *, higher_is_better: bool
) -> str | Markup:
    if gain is None or gain.get(key) is None:
        return MISSING
    bounds = gain.get(f"{key}_interval")
    parts = [
        _small(f"over {gain['over']}"),
        tag("strong", signed(gain[key], decimals)),
        _small(interval(bounds, decimals, sign=True)),
        badge(verdict(bounds, higher_is_better=higher_is_better)),
    ]
    return join(part for part in parts if part)


def _small(text: str) -> Markup:
    return tag("small", text) if text else Markup("")


def _line(text: str) -> Markup:
    return tag("div", text)


def _gains(rows: list[dict]) -> Iterator[Markup]:
    """The chart of all differences; nothing if there are none."""
    found = [
        (row.get("budget", row["name"]), gain["top1"], gain["top1_interval"], key == "gain_pair")
        for row in rows
        for key in ("gain", "gain_pair")
        if (gain := row.get(key)) and gain.get("top1_interval")
    ]
    if found:
        yield charts.gains(
            found,
            "Top-1 of the searched configuration minus that of the best uniform one within the "
            "budget, with 95 % intervals, on the test images. Right of zero the search is better.",
        )


def _everything(content: Mapping) -> Markup:
    columns = [
        Column("configuration", False),
        Column("GBitOPs"),
        Column("size (MB)"),
        Column(f"{TOP1} (%)"),
        Column("95 % interval"),
        Column("top-5 (%)"),
        Column("cross-entropy"),
        Column("images"),
    ]
    rows = [_row(row, f"{row['kind']} {row['name']}") for row in content["rows"]]
    if content.get("full_precision"):
        rows.insert(0, _row(content["full_precision"], "full precision"))
    unique = list(dict.fromkeys(map(tuple, rows)))  # one uniform row may serve several budgets
    shown = table(columns, unique, label="All configurations on the test images")
    return details(f"All {len(unique)} configurations on the test images", shown)


def _row(row: Mapping, name: str) -> list[str]:
    places = digits(row.get("images"))
    return [
        name,
        cost(row.get("bitops_g")),
        cost(row.get("size_mb")),
        fixed(row["top1"], places),
        interval(row.get("top1_interval"), places) or MISSING,
        fixed(row.get("top5"), places),
        fixed(row.get("cross_entropy"), 4),
        str(row.get("images", MISSING)),
    ]
