"""Measured latencies on a device, by layer and bit-widths."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.errors import UserError, listed, one_line
from rfquant_jax.quant.space import ACTIVATIONS, Space
from rfquant_jax.runtime.files import parse_json, read_text

COLUMNS = ("layer", "w_bits", "a_bits", "milliseconds")


@dataclass(frozen=True)
class LatencyTable:
    """Cost model: the sum of the layers' latencies.

    Attributes:
      milliseconds: float64[L, |B|, |B|] by searched layer, weight and activation candidate; NaN for
        bit-widths that a layer does not have.
      fixed: milliseconds of the layers that are not searched.
      candidates: bit-widths along the last two axes.
    """

    milliseconds: np.ndarray
    fixed: float
    candidates: tuple[int, ...]

    def __call__(self, configuration: np.ndarray) -> float:
        """Latency of a configuration int32[L, 2] in milliseconds."""
        places = [[self.candidates.index(b) for b in row] for row in np.asarray(configuration)]
        weights, activations = np.asarray(places, int).reshape(-1, 2).T
        rows = np.arange(len(weights))
        # Rounded to a picosecond, so that 0.1 + 0.1 + 0.1 is within a budget of 0.3.
        return round(math.fsum([self.fixed, *self.milliseconds[rows, weights, activations]]), 9)


def read_latencies(path: Path, space: Space, fixed_layers: Iterable[str]) -> LatencyTable:
    """Reads a JSON list of objects or a CSV file with the fields `COLUMNS`.

    Every searched layer needs an entry for each pair of its bit-widths. Layers with fixed
    bit-widths may have one entry with arbitrary bit-widths; without one their latency is 0.

    Args:
      fixed_layers: names of the layers that are not searched.

    Raises:
      UserError: the file cannot be read, or an entry is malformed, duplicate, missing, or of an
        unknown layer.
    """
    fixed_layers = set(fixed_layers)
    table = np.full((len(space), *[len(space.candidates)] * 2), np.nan)
    fixed: dict[str, float] = {}
    for number, row in enumerate(_rows(path), 1):
        layer, weight, activation, value = _entry(row, f"{path}: entry {number}")
        if layer in fixed_layers:
            if layer in fixed:
                raise UserError(f"{path}: entry {number}: layer {layer} appears twice")
            fixed[layer] = value
            continue
        if layer not in space.names:
            raise UserError(
                f"{path}: entry {number}: the network has no layer {one_line(repr(layer))}"
            )
        index = space.names.index(layer)
        if not (weight in space.allowed(index) and activation in space.allowed(index, ACTIVATIONS)):
            continue  # a table may contain more bit-widths than the network has
        place = index, *(space.candidates.index(b) for b in (weight, activation))
        if not np.isnan(table[place]):
            rule = f"layer {layer} at {weight} and {activation} bits appears twice"
            raise UserError(f"{path}: entry {number}: {rule}")
        table[place] = value
    _check_complete(path, table, space)
    return LatencyTable(table, sum(fixed.values()), space.candidates)


def _rows(path: Path) -> list[Mapping]:
    try:
        text = read_text(path, encoding="utf-8-sig")  # accepts the byte order mark of spreadsheets
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise UserError(f"`latency_table`: {path}: cannot be read ({reason})") from error
    try:
        if path.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines()))
        rows = parse_json(text)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is neither a .csv file nor JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: must be a JSON list of objects with {', '.join(COLUMNS)}")
    return rows


def _entry(row: Mapping, where: str) -> tuple[str, int, int, float]:
    if missing := [name for name in COLUMNS if row.get(name) in (None, "")]:
        raise UserError(f"{where}: has no {', '.join(missing)}")
    try:
        bits = [float(row[name]) for name in ("w_bits", "a_bits")]
        if not all(b.is_integer() for b in bits):
            raise ValueError(f"{bits} bits")
        weight, activation = map(int, bits)
        value = float(row["milliseconds"])
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{where}: must hold whole bit-widths and a number ({one_line(error)})"
        ) from error
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: milliseconds = {value}: must be finite and not negative")
    return str(row["layer"]).strip(), weight, activation, value


def _check_complete(path: Path, table: np.ndarray, space: Space) -> None:
    missing = [
        f"{name} w{weight}a{activation}"
        for i, name in enumerate(space.names)
        for weight in space.allowed(i)
        for activation in space.allowed(i, ACTIVATIONS)
        if np.isnan(table[i, space.candidates.index(weight), space.candidates.index(activation)])
    ]
    if missing:
        raise UserError(f"{path}: lacks {listed(missing)}")
