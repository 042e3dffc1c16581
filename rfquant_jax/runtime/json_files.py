"""JSON files: safe reads of untrusted ones, atomic writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rfquant_jax.errors import UserError
from rfquant_jax.runtime.files import parse_json, read_text, replacing


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
      UserError: it cannot be read, is too large or is not JSON.
    """
    try:
        return parse_json(read_text(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from error


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Puts lists of plain values on one line; newlines inside strings are escaped, so they are safe.
    text = re.sub(
        r"\[\n[^\[\]{}]*?\n *\]",
        lambda match: re.sub(r"\n *", " ", match[0]).replace("[ ", "[").replace(" ]", "]"),
        json.dumps(content, indent=2),
    )
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")
