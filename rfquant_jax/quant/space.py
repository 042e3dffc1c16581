"""Configurations and candidate masks: naming, JSON in and out.

A configuration is int32[L, 2]: the weight and activation bit-width of each searched layer, in
forward order. A candidate mask is bool[L, |B|]: which bit-widths may be sampled now. B holds the
bit-widths of weights and of activations, which may differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfquant_jax.errors import UserError, one_line
from rfquant_jax.quant.layer_table import Layer
from rfquant_jax.runtime.files import parse_json, read_text

WEIGHTS, ACTIVATIONS = 0, 1  # the columns of a configuration
COLUMN_NAMES = ("weights", "activations")


@dataclass(frozen=True)
class Space:
    """All configurations of a network.

    Attributes:
      names: the searched layers' names, in forward order.
      candidates: every bit-width of the search, largest first.
      full_mask: bool[L, |B|], the bit-widths that the weights of each layer may take.
      activation_mask: the same for its input activations; None: those of the weights.
      columns: the candidates of weights and those of activations, each largest first; empty: all
        `candidates` for both.
    """

    names: tuple[str, ...]
    candidates: tuple[int, ...]
    full_mask: np.ndarray
    activation_mask: np.ndarray | None = None
    columns: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.activation_mask is None:
            object.__setattr__(self, "activation_mask", self.full_mask)
        if not self.columns:
            object.__setattr__(self, "columns", (self.candidates, self.candidates))

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        candidates: tuple[int, ...],
        activation_candidates: tuple[int, ...] = (),
    ) -> Space:
        """The space of the searched layers among `layers`.

        Args:
          activation_candidates: the candidates of activations; empty: those of weights.
        """
        searched = [layer for layer in layers if layer.candidates]
        columns = candidates, activation_candidates or candidates
        bits = union(*columns)
        masks = [
            np.asarray([[b in layer.columns[c] for b in bits] for layer in searched], bool)
            for c in (WEIGHTS, ACTIVATIONS)
        ]
        shape = len(searched), len(bits)
        names = tuple(layer.name for layer in searched)
        return cls(names, bits, *(mask.reshape(shape) for mask in masks), columns)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def full_masks(self) -> np.ndarray:
        """The bit-widths that weights and activations of each layer may take, bool[2, L, |B|]."""
        return np.stack([self.full_mask, self.activation_mask])

    @property
    def has_one_set(self) -> bool:
        """Whether weights and activations have the same candidates."""
        return self.columns[WEIGHTS] == self.columns[ACTIVATIONS]

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Weight and activation bits of the uniform configurations, one for each bit-width.

        With equal candidates these are equal bits. Otherwise each column has its largest candidate
        up to the bit-width, else its smallest.
        """
        weights, activations = self.columns
        return list(
            dict.fromkeys((clamp(weights, b), clamp(activations, b)) for b in self.candidates)
        )

    def uniform(self, weight_bits: int, activation_bits: int) -> np.ndarray:
        """Every layer at its largest bit-width up to the given ones, else at its smallest."""
        rows = [
            [
                clamp(self.allowed(i, WEIGHTS), weight_bits),
                clamp(self.allowed(i, ACTIVATIONS), activation_bits),
            ]
            for i in range(len(self))
        ]
        return np.asarray(rows, np.int32).reshape(len(self), 2)

    @property
    def largest(self) -> np.ndarray:
        """The configuration with every layer at its largest bit-widths."""
        return self.uniform(max(self.candidates), max(self.candidates))

    def allowed(self, index: int, column: int = WEIGHTS) -> list[int]:
        """The bit-widths that weights or activations of layer `index` may take, largest first."""
        mask = (self.full_mask, self.activation_mask)[column][index]
        return [b for b, has in zip(self.candidates, mask, strict=True) if has]

    def encode(self, configuration: np.ndarray) -> str:
        """A configuration as a string: a letter for each bit-width, by layer, weights first."""
        return "".join(chr(97 + self.candidates.index(bits)) for bits in np.ravel(configuration))

    def decode(self, encoded: str) -> np.ndarray:
        """The configuration int32[L, 2] of a string from `encode`.

        Raises:
          ValueError: not a configuration of this network.
        """
        places = [ord(letter) - 97 for letter in encoded]
        if len(places) != 2 * len(self) or not all(
            0 <= place < len(self.candidates) for place in places
        ):
            raise ValueError(f"{encoded!r} is not a configuration of {len(self)} layers")
        return np.asarray([self.candidates[p] for p in places], np.int32).reshape(-1, 2)

    def parse(self, text: str) -> np.ndarray:
        """A configuration from "w4a4" or from the path of a JSON file.

        Raises:
          UserError: neither a uniform configuration of known bit-widths nor a readable file with
            this network's layers.
        """
        uniform = re.fullmatch(r"w(\d+)a(\d+)", text)
        if uniform is None:
            return self.from_json(_read_json(Path(text)), source=text)
        asked = tuple(map(int, uniform.groups()))
        for name, bits, candidates in zip(COLUMN_NAMES, asked, self.columns, strict=True):
            if bits not in candidates:
                what = "" if self.has_one_set else f", the candidates of {name}"
                raise UserError(f"configuration {text!r}: {bits} is not one of {candidates}{what}")
        return self.uniform(*asked)

    def to_json(self, configuration: np.ndarray) -> dict[str, list[int]]:
        """`{layer name: [weight bits, activation bits]}`."""
        return {
            name: [int(w), int(a)]
            for name, (w, a) in zip(self.names, np.asarray(configuration), strict=True)
        }

    def from_json(self, content: object, source: str = "configuration") -> np.ndarray:
        """The configuration in `{"layers": {name: [w_bits, a_bits], ...}, ...}`.

        Raises:
          UserError: a layer is missing or unknown, or a bit-width is not among its candidates.
        """
        layers = content.get("layers") if isinstance(content, Mapping) else None
        if not isinstance(layers, Mapping):
            raise UserError(f'{source}: has no "layers" mapping of layer names to bit-widths')
        missing = [name for name in self.names if name not in layers]
        unknown = [name for name in layers if name not in self.names]
        if missing or unknown:
            raise UserError(
                f"{source}: not a configuration of this network; unknown layers: "
                f"{_shown(unknown)}, missing layers: {_shown(missing)}"
            )
        rows = [self._row(name, layers[name], source) for name in self.names]
        return np.asarray(rows, np.int32).reshape(len(self), 2)

    def _row(self, name: str, bits: object, source: str) -> list[int]:
        weights, activations = (self.allowed(self.names.index(name), c) for c in (0, 1))
        pair = isinstance(bits, list | tuple) and len(bits) == 2
        if not (pair and bits[WEIGHTS] in weights and bits[ACTIVATIONS] in activations):
            each = f"each one of {weights}"
            if weights != activations:
                each = f"one of {weights} and one of {activations}"
            raise UserError(
                f"{source}: layer {name} has {one_line(repr(bits))}; it takes a weight and an "
                f"activation bit-width, {each}"
            )
        return list(bits)


def _shown(names: list[str]) -> str:
    return one_line(names or "none")


def union(*columns: Sequence[int]) -> tuple[int, ...]:
    """Every bit-width of these candidates, largest first."""
    return tuple(sorted(set().union(*columns), reverse=True))


def clamp(allowed: Sequence[int], bits: int) -> int:
    """The largest of the bit-widths, largest first, within a limit; else the smallest."""
    return next((b for b in allowed if b <= bits), allowed[-1])


def _read_json(path: Path) -> object:
    try:
        return parse_json(read_text(path))
    except OSError as error:
        raise UserError(
            f"configuration {str(path)!r}: neither a uniform one such as w4a4 nor a readable "
            f"file ({error.strerror})"
        ) from error
    except ValueError as error:
        raise UserError(f"configuration {str(path)!r}: is not JSON ({error})") from error


def largest_bits(mask: np.ndarray, candidates: tuple[int, ...]) -> np.ndarray:
    """The largest bit-width each row of a bool[L, |B|] mask allows, int32[L]."""
    return np.asarray(candidates, np.int32)[np.argmax(mask, axis=1)]


def smallest_bits(mask: np.ndarray, candidates: tuple[int, ...]) -> np.ndarray:
    """The smallest bit-width each row of a bool[L, |B|] mask allows, int32[L]."""
    return np.asarray(candidates, np.int32)[::-1][np.argmax(mask[:, ::-1], axis=1)]
