"""Section "freezes": which layers had their smallest bit-width frozen, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rfquant_jax.report import timelines
from rfquant_jax.report.markup import Markup
from rfquant_jax.report.run_files import RunFiles, Unavailable

Spans = dict[str, list[tuple[int, int, int]]]


def freezes(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: `metrics.jsonl` is missing, or the scheduler did not fire.
    """
    lines = run.lines("train")
    events = [line for line in lines if line.get("event") == "scheduler"]
    if not events:
        raise Unavailable(
            "The scheduler froze nothing: coupled training was not run in this workdir, is too "
            "short, or scheduler.enabled is False."
        )
    epochs = 1 + max(line["epoch"] for line in lines if "epoch" in line)
    frozen = spans(events, epochs)
    layers = _layers(run, frozen)
    caption = (
        "A bar covers the epochs in which a layer's smallest bit-width was frozen, that is, not "
        f"sampled. The scheduler fired {len(events)} times in {epochs} epochs."
    )
    return timelines.freezes(layers, frozen, epochs, caption)


def spans(events: Iterable[Mapping], epochs: int) -> Spans:
    """The intervals in which bit-widths of layers were frozen.

    Args:
      events: events of the scheduler in `metrics.jsonl`, in order.
      epochs: epochs trained so far; intervals that are still open end here.

    Returns:
      {layer: [(first epoch, epoch after the last, bit-width), ...]}, in the order in which the
      intervals of a layer end.
    """
    since: dict[tuple[str, int], int] = {}
    found: Spans = {}
    for event in events:
        for change in event["changes"]:
            key = change["layer"], change["bits"]
            if change["change"] == "frozen":
                since[key] = event["epoch"]
            elif key in since:
                found.setdefault(key[0], []).append((since.pop(key), event["epoch"], key[1]))
    for (layer, bits), start in since.items():
        found.setdefault(layer, []).append((start, epochs, bits))
    return found


def _layers(run: RunFiles, frozen: Spans) -> list[str]:
    """All searched layers if a result file names them, and layers that were ever frozen."""
    try:
        known = list(run.searches[0][1]["layers"])
    except Unavailable:
        known = list(run.optional("sensitivity.json").get("base", {}))
    return known + [layer for layer in frozen if layer not in known]
