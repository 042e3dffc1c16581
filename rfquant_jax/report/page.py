"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rfquant_jax.errors import one_line
from rfquant_jax.report.markup import Markup, join, note, tag
from rfquant_jax.report.run_files import RunFiles, Unavailable
from rfquant_jax.report.sections.asked import asked, field
from rfquant_jax.report.sections.bits import bits
from rfquant_jax.report.sections.classes import classes
from rfquant_jax.report.sections.files import files
from rfquant_jax.report.sections.freezes import freezes
from rfquant_jax.report.sections.frontier import frontier
from rfquant_jax.report.sections.interference import interference
from rfquant_jax.report.sections.results import results
from rfquant_jax.report.sections.sensitivities import sensitivities
from rfquant_jax.report.sections.surrogate import surrogate
from rfquant_jax.report.sections.training import training
from rfquant_jax.report.sections.use import use
from rfquant_jax.report.style import STYLE
from rfquant_jax.report.summary import summary
from rfquant_jax.runtime.devices import is_first_process
from rfquant_jax.runtime.files import replacing

REPORT_FILE = "report.html"

# Exceptions from files of unexpected form. The page names the file instead; the report is written
# at the end of a run and must not make it fail.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      id: id of its element, for links.
      title: heading.
      source: the file that it shows.
      build: builds its content.
    """

    id: str
    title: str
    source: str
    build: Callable[[RunFiles], Markup]


SECTIONS = (
    Section("asked", "What was asked", "config.json", asked),
    Section("results", "Results by budget", "results.json", results),
    Section("frontier", "Frontier", "frontier.json", frontier),
    Section("bits", "Bits per layer", "A result of the search", bits),
    Section("sensitivities", "Sensitivities", "sensitivity.json", sensitivities),
    Section("training", "Training curves", "metrics.jsonl", training),
    Section("interference", "Interference of bit-widths", "metrics.jsonl", interference),
    Section("freezes", "Freezes over time", "metrics.jsonl", freezes),
    Section("surrogate", "Quality of the surrogate", "surrogate.json", surrogate),
    Section("classes", "Accuracy per class", "results.json", classes),
    Section("files", "Files written", "A file of the workdir", files),
    Section("use", "Use a result", "A result of the search", use),
)


def write_report(workdir: Path) -> Path:
    """Writes `report.html` into a workdir, from the files of the run.

    A missing or damaged file is reported in the section that needs it. Only process 0 writes.

    Returns:
      the path of the file.

    Raises:
      OSError: it cannot be written.
    """
    path = Path(workdir) / REPORT_FILE
    if is_first_process():
        page = build_page(RunFiles(path.parent))
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return path


def build_page(run: RunFiles) -> str:
    """The page as HTML."""
    name = run.workdir.resolve().name
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name}: mixed-precision report"),
        tag("style", Markup(STYLE)),
    )
    links = (tag("li", tag("a", s.title, href=f"#{s.id}")) for s in SECTIONS)
    contents = tag("nav", tag("ol", *links), aria_label="Contents")
    main = tag("main", *(_section(run, section) for section in SECTIONS))
    layout = tag("div", contents, main, class_="layout")
    body = tag("body", _header(run, name), layout, _footer())
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _header(run: RunFiles, name: str) -> Markup:
    eyebrow = tag("p", "rfquant_jax, mixed-precision report", class_="eyebrow")
    lead = tag("p", _lead(run.optional("config.json")), class_="lead")
    try:
        tiles = summary(run)
    except (Unavailable, *_DAMAGED):  # the section on results explains why
        tiles = None
    return tag("header", eyebrow, tag("h1", name), lead, tiles)


def _lead(config: Mapping) -> str:
    if not config:
        return "The run's config is not readable."
    return f"{field(config, 'model.name')} on {field(config, 'data.name')}"


def _section(run: RunFiles, section: Section) -> Markup:
    try:
        content = section.build(run)
    except Unavailable as reason:
        content = note(str(reason))
    except _DAMAGED as error:
        found = one_line(f"{type(error).__name__}: {error}")
        content = note(f"{section.source} does not have the expected form ({found}).")
    heading = tag("h2", section.title, id=f"{section.id}-heading")
    label = f"{section.id}-heading"
    return tag(
        "section", heading, join(["\n", content, "\n"]), id=section.id, aria_labelledby=label
    )


def _footer() -> Markup:
    now = time.strftime("%Y-%m-%d %H:%M")
    return tag("footer", f"Written on {now}. The page loads nothing from the network.")
