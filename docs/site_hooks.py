"""Pages of the site that are generated: the README, the changelog, and the reference.

The README and the guides link to each other as files of the repository, so that they can be read
there. The site has other paths: links are rewritten, and those to source files become plain text.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Adds the generated pages."""
    pages = {
        "index.md": _from_root((ROOT / "README.md").read_text()),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "reference/fields.md": fields_page(),
        "reference/python.md": python_page(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """Rewrites links to files outside the folder of the guides."""
    return LINK.sub(lambda match: _inside(match[1], match[2]), markdown)


def _from_root(text: str) -> str:
    """The README as a page beside the guides."""
    return re.sub(r"\]\(docs/", "](", text)


def _inside(text: str, target: str) -> str:
    if target.startswith("../README.md"):
        return f"[{text}]({target.replace('../README.md', 'index.md')})"
    if target == "CHANGELOG.md":
        return f"[{text}](changelog.md)"
    path = target.partition("#")[0]
    outside = path.startswith("../") or (path and (ROOT / path).exists())
    if outside and not target.startswith("http"):
        return text
    return f"[{text}]({target})"


def fields_page() -> str:
    """Every field of the config: default, meaning, range and whether it may change on resume."""
    from rfquant_jax.config.schema import SECTIONS

    lines = ["# Fields", "", "Set any field on the command line with `--config.<field>=VALUE`."]
    for section in SECTIONS:
        lines += ["", f"## {section.name or 'general'}", "", section.meaning, ""]
        lines += ["| field | default | meaning | limits |", "|---|---|---|---|"]
        for name, field in section.fields.items():
            cells = (
                f"`{name}`",
                f"`{field.default!r}`",
                field.help.replace("\n", "<br>"),
                field.limits,
            )
            lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def python_page() -> str:
    """Every public name with its signature and docstring."""
    import rfquant_jax as rfq

    lines = ["# Python", "", "```python", "import rfquant_jax as rfq", "```", ""]
    for name in sorted(set(rfq.__all__) - {"__version__"}):
        lines += _entry(f"rfq.{name}", getattr(rfq, name))
        if inspect.isclass(getattr(rfq, name)):
            members = vars(getattr(rfq, name)).items()
            for member, value in members:
                function = value.__func__ if isinstance(value, classmethod) else value
                if not member.startswith("_") and inspect.isfunction(function) and function.__doc__:
                    lines += _entry(f"rfq.{name}.{member}", function, level=3)
    return "\n".join(lines) + "\n"


def _entry(title: str, value: object, level: int = 2) -> list[str]:
    try:
        signature = f"{title}{inspect.signature(value)}"
    except (TypeError, ValueError):
        signature = title  # an alias of types
    documented = inspect.getdoc(value) if callable(value) else None
    text = ["", f"{'#' * level} {title}", "", "```python", signature, "```", ""]
    return text + (["```text", documented, "```"] if documented else [])
