"""Section "frontier": accuracy over cost, of searched and uniform configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rfquant_jax.report import charts
from rfquant_jax.report.markup import Column, Markup, details, join, note, table, tag
from rfquant_jax.report.numbers import MISSING, cost, digits, fixed, interval
from rfquant_jax.report.run_files import RunFiles, Unavailable


def frontier(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: there is no readable `frontier.json`.
    """
    content = run.json("frontier.json")
    points, uniform = content["points"], content.get("uniform") or []
    if not points:
        raise Unavailable("frontier.json holds no points.")
    figures = tag("div", _accuracy(run, points, uniform), _divergence(points), class_="pair")
    summary = f"All {len(points)} points of the curve and {len(uniform)} uniform configurations"
    return join([figures, details(summary, _table(points, uniform))])


def _accuracy(run: RunFiles, points: list[dict], uniform: list[dict]) -> Markup:
    series = {charts.CURVE: _confirmed(points), charts.UNIFORM: _confirmed(uniform)}
    series[charts.ANSWERS] = _answers(run)
    series = {name: found for name, found in series.items() if found}
    if charts.CURVE not in series:
        return note("No point of the frontier was confirmed on images.")
    return charts.frontier(
        series,
        "Top-1 on the confirmation images, with 95 % intervals, for the confirmed points of the "
        "curve and for uniform configurations. Test images are not used here.",
    )


def _confirmed(points: Iterable[Mapping]) -> list[tuple]:
    return [
        (p["bitops_g"], p["confirmed"]["top1"], tuple(p["confirmed"]["top1_interval"]))
        for p in points
        if p.get("confirmed")
    ]


def _answers(run: RunFiles) -> list[tuple]:
    try:
        found = [content for _, content in run.searches]
    except Unavailable:
        return []
    chosen = [r | {"confirmed": r.get("confirmed", {}).get(r.get("source"))} for r in found]
    return list(dict.fromkeys(_confirmed(chosen)))


def _divergence(points: list[dict]) -> Markup:
    def positive(key: str) -> list[tuple[float, float]]:
        return [(p["bitops_g"], p[key]) for p in points if (p.get(key) or 0) > 0]

    predicted = positive("predicted_divergence")
    if not predicted:
        return note("frontier.json holds no predicted divergences.")
    return charts.divergence(
        predicted,
        positive("divergence"),
        f"Divergence from the largest configuration at {len(points)} budgets: predicted by the "
        "surrogate, and measured where a point was evaluated.",
    )


def _table(points: list[dict], uniform: list[dict]) -> Markup:
    columns = [
        Column("configuration", False),
        Column("GBitOPs"),
        Column("size (MB)"),
        Column("divergence, predicted"),
        Column("measured"),
        Column("confirmed top-1 (%)"),
        Column("95 % interval"),
    ]
    rows = [_row(p, f"budget {p.get('budget', MISSING)}") for p in points]
    rows += [_row(p, f"uniform {p['name']}") for p in uniform]
    return table(columns, rows, label="Points of the frontier")


def _row(point: Mapping, name: str) -> list[str]:
    confirmed = point.get("confirmed") or {}
    places = digits(confirmed.get("images"))
    return [
        name,
        cost(point["bitops_g"]),
        cost(point.get("size_mb")),
        fixed(point.get("predicted_divergence"), 4),
        fixed(point.get("divergence"), 4),
        fixed(confirmed.get("top1"), places),
        interval(confirmed.get("top1_interval"), places) or MISSING,
    ]
