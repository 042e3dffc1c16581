"""Rows of printed tables and their files."""

from __future__ import annotations

from pathlib import Path

from rfquant_jax.runtime.json_files import read_json


def rounded(row: dict) -> dict:
    """A row with its floats as text, with four digits."""
    return {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}


def written_rows(path: Path, images: int) -> list[dict]:
    """Rows of an earlier process on as many images; none without the file."""
    rows = read_json(path) if path.exists() else []
    for row in rows:
        if row["images"] != images:
            raise SystemExit(f"{path}: measured on {row['images']} images, --images={images}")
    return rows
