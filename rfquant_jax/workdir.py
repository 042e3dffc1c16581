"""The folder a run leaves its results in, and the check that it is this run's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from rfquant_jax.config import to_plain
from rfquant_jax.errors import UserError, listed
from rfquant_jax.fields import flat
from rfquant_jax.files import replacing

CONFIG_FILE, RESULTS_FILE, TRACE_FILE = "config.json", "results.json", "trace.jsonl"
CONFIRMED_FILE = "confirmed.jsonl"
SEARCH_FOLDER, EVALUATION_FOLDER = "search", "evaluations"
FRONTIER_FILE, SENSITIVITY_FILE = "frontier.json", "sensitivity.json"
PREDICTIONS_FILE = "predictions.csv"
EXPORT_FOLDER, EXPORT_FILE = "export", "export.json"

# Fields that may differ between two starts of one run: they decide what is done now, or how fast,
# or where the images are, but not what comes out.
FREE_FIELDS = (
    "tasks",
    "configuration",
    "devices",
    "data.path",
    "data.max_bad_fraction",
    "data.threads",
    "train.log_every",
    "search.starts",
    "predict.images",
    "predict.top",
    "export.formats",
    "export.platforms",
    "export.images",
    "export.code_images",
    "export.max_unequal",
    "export.max_unequal_float",
    "export.max_differing_codes",
)


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes `workdir` this run's: writes the resolved config, or compares it with the one there.

    Raises:
      UserError: the folder cannot be written, or belongs to a run with another config.
    """
    wanted = to_plain(config)
    path = workdir / CONFIG_FILE
    if os.path.exists(path):
        _compare(read_json(path), wanted, workdir)
        if not os.access(workdir, os.W_OK):
            raise UserError(f"--workdir={workdir}: cannot be written (Permission denied)")
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error


def _compare(found: object, wanted: Mapping, workdir: Path) -> None:
    old = dict(flat(found)) if isinstance(found, dict) else {}
    new = dict(flat(wanted))
    differing = [
        f"config.{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in FREE_FIELDS and old.get(name) != new.get(name)
    ]
    if differing:
        raise UserError(
            f"--workdir={workdir} belongs to another run: {listed(differing, 3, '; ')}; "
            "give this run a --workdir of its own"
        )


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
      UserError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from error


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file in one go: a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Lists of plain values go on one line: a string's newlines are escaped, so none is touched.
    text = re.sub(
        r"\[\n[^\[\]{}]*?\n *\]",
        lambda match: re.sub(r"\n *", " ", match[0]).replace("[ ", "[").replace(" ]", "]"),
        json.dumps(content, indent=2),
    )
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")
