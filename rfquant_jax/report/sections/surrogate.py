"""Section "surrogate": its predictions of configurations that it was not fitted on."""

from __future__ import annotations

from rfquant_jax.report import charts
from rfquant_jax.report.markup import Markup, join, note, tag
from rfquant_jax.report.numbers import MISSING, fixed
from rfquant_jax.report.run_files import RunFiles


def surrogate(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: there is no readable `surrogate.json`.
    """
    content = run.json("surrogate.json")
    strength = content.get("strength")
    held_out = content.get("held_out") or []
    facts = {
        "R\N{SUPERSCRIPT TWO}": fixed(content.get("r2"), 3),
        "rank correlation": fixed(content.get("rank_correlation"), 3),
        "configurations in the profile": content.get("configurations", MISSING),
        "held out for this figure": len(held_out),
        "ridge strength": MISSING if strength is None else f"{strength:.3g}",
    }
    pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items())
    numbers = tag("dl", *pairs, class_="facts")
    if not held_out:
        return join([numbers, note("surrogate.json holds no held-out configurations.")])
    caption = (
        "Measured and predicted log divergence of configurations that the model was not "
        "fitted on. The closer to the diagonal, the better. A common shift of all points does not "
        "affect the search."
    )
    return tag("div", charts.scatter(held_out, caption), numbers, class_="pair")
