"""Reads the files of a run for the report; each may be missing or damaged."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path

from rfquant_jax.errors import UserError
from rfquant_jax.report.log import METRICS_FILE
from rfquant_jax.runtime.files import parse_json, read_text

# The task that writes each file, for messages about missing files.
_WRITERS = {
    "config.json": "every task",
    METRICS_FILE: "the tasks pretrain and train",
    "results.json": "the task evaluate",
    "frontier.json": "the task search",
    "sensitivity.json": "the task search",
    "surrogate.json": "the task search",
    "export.json": "the task export",
}


class Unavailable(Exception):  # noqa: N818 - not an error: the page explains why a part is missing
    """A part of the report cannot be shown; the text is one sentence with the reason."""


class RunFiles:
    """Reads the files of a workdir, each at most once.

    Args:
      workdir: folder of a run.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.json = cache(self._json)

    def _json(self, name: str) -> dict:
        """The object in a JSON file of the workdir.

        Raises:
          Unavailable: it is missing or damaged.
        """
        text = self._text(name)
        try:
            content = parse_json(text)
        except ValueError as error:
            raise Unavailable(f"{name} is damaged: it is not JSON ({error}).") from error
        if not isinstance(content, dict):
            raise Unavailable(f"{name} is damaged: it does not hold a JSON object.")
        return content

    def optional(self, name: str) -> dict:
        """The same, but empty if the file is missing or damaged."""
        try:
            return self.json(name)
        except Unavailable:
            return {}

    def lines(self, task: str) -> list[dict]:
        """The lines of `metrics.jsonl` that a task wrote, in order.

        Raises:
          Unavailable: the file is missing or cannot be read.
        """
        return [line for line in self._metrics if line.get("task") == task]

    @cached_property
    def _metrics(self) -> list[dict]:
        found = []
        for text in self._text(METRICS_FILE).splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # such as a truncated line after a kill
                continue
            if isinstance(line, dict):
                found.append(line)
        return found

    @cached_property
    def searches(self) -> list[tuple[str, dict]]:
        """Path within the workdir and content of each search result, in the order of the budgets.

        Raises:
          Unavailable: there is none.
        """
        found = []
        for path in sorted((self.workdir / "search").glob("*.json")):
            name = f"search/{path.name}"
            content = self.optional(name)
            if isinstance(content.get("layers"), dict) and "budget" in content:
                found.append((name, content))
        if not found:
            raise Unavailable(
                "The folder search/ holds no readable result: the task search writes one a budget."
            )
        order = self.budgets
        return sorted(found, key=lambda item: _position(order, str(item[1]["budget"])))

    @property
    def budgets(self) -> list[str]:
        """The budgets in the config; empty if the config is unreadable."""
        search = self.optional("config.json").get("search")
        budgets = search.get("budgets") if isinstance(search, dict) else None
        return [b.strip() for b in budgets.split(",")] if isinstance(budgets, str) else []

    def _text(self, name: str) -> str:
        try:
            return read_text(self.workdir / name)
        except FileNotFoundError:
            writer = _WRITERS.get(name, "a task that was not run")
            raise Unavailable(f"There is no {name}: {writer} would have written it.") from None
        except OSError as error:
            raise Unavailable(f"{name} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise Unavailable(f"{name} is damaged: it is not text.") from error
        except UserError as error:
            raise Unavailable(f"{name} cannot be read: {error}.") from error


def _position(order: list[str], budget: str) -> tuple[int, str]:
    return (order.index(budget) if budget in order else len(order), budget)
