"""Records of measurements: what they were measured on, and the lines that a search starts from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from rfquant_jax.errors import listed
from rfquant_jax.runtime.files import replacing
from rfquant_jax.runtime.json_files import read_json, write_json
from rfquant_jax.search.profile import Profile


def stored_header(path: Path) -> dict | None:
    """The header of a record on disk; None if there is no readable header."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def differences(found: Mapping, wanted: Mapping, prefix: str = "") -> list[str]:
    """Names of the entries that differ; names of nested entries are joined with dots."""
    names = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(f"{prefix}{key}")
    return names


def mismatch(path: Path, header: dict) -> str | None:
    """Why a record on disk was not measured under a header, as the end of a sentence."""
    found = stored_header(path)
    if found == header:
        return None
    if found is None:
        return "is damaged"
    return f"was measured with other {listed(differences(found, header))}"


def copy_record(source: Path, path: Path, header: dict) -> str | None:
    """Copies a record of another run, such as its profile, if it has the same header.

    Nothing happens if there is no such file, or if `path` exists.

    Returns:
      why it was not copied, see `mismatch`; None if there is nothing to say.
    """
    if path.exists() or not source.is_file():
        return None
    reason = mismatch(source, header)
    if reason is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)
    return reason


def snapshot_length(path: Path, request: dict, profile: Profile) -> int:
    """Number of lines of a profile that a search starts from; written by its first start.

    Later lines only save evaluations, so that a resumed search gives the same result.

    Args:
      path: of the snapshot's file.
      request: everything that the result depends on, except the measured divergences.
    """
    known = read_json(path) if path.exists() else None
    if isinstance(known, dict) and known.get("request") == request:
        length = known.get("length")
        if isinstance(length, int) and profile.digest(length) == known.get("sha256"):
            return length
    length = len(profile)
    write_json(path, {"request": request, "length": length, "sha256": profile.digest(length)})
    return length
