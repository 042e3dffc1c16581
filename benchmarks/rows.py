"""Rows of printed tables."""

from __future__ import annotations


def rounded(row: dict) -> dict:
    """A row with its floats as text, with four digits."""
    return {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
