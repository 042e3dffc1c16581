"""Section "use": commands that use the first searched configuration."""

from __future__ import annotations

from rfquant_jax.report.markup import Markup, join, paragraph, tag
from rfquant_jax.report.run_files import RunFiles
from rfquant_jax.report.sections.asked import COMMAND_FILE
from rfquant_jax.report.usage import usage_lines


def use(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: nothing was searched.
    """
    name, content = run.searches[0]
    arguments = run.optional(COMMAND_FILE).get("arguments")
    steps = [
        tag("li", f"{purpose}:", tag("pre", tag("code", line)))
        for purpose, line in usage_lines(run.workdir, name, arguments)
    ]
    files = join((tag("code", path) for path, _ in run.searches), ", ")
    first = paragraph("For the budget ", tag("code", content["budget"]), ":")
    parts = [first, tag("ol", *steps, class_="use")]
    if not arguments:
        parts.append(paragraph("RECIPE stands for the recipe of this run."))
    if len(run.searches) > 1:
        parts.append(paragraph("The same with any of these files: ", files, "."))
    return join(parts)
