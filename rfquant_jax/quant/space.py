"""Configurations and candidate masks: naming, JSON in and out.

A configuration is int32[L, 2]: the weight and activation bit-width of each searched layer, in
forward order. A candidate mask is bool[L, |B|]: which bit-widths may be sampled now.
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
      full_mask: bool[L, |B|], the bit-widths each layer may take, weights and activations alike.
    """

    names: tuple[str, ...]
    candidates: tuple[int, ...]
    full_mask: np.ndarray

    @classmethod
    def of(cls, layers: Sequence[Layer], candidates: tuple[int, ...]) -> Space:
        """The space of the searched layers among `layers`."""
        searched = [layer for layer in layers if layer.candidates]
        rows = [[b in layer.candidates for b in candidates] for layer in searched]
        mask = np.asarray(rows, bool).reshape(len(searched), len(candidates))
        return cls(tuple(layer.name for layer in searched), candidates, mask)

    def __len__(self) -> int:
        return len(self.names)

    def uniform(self, weight_bits: int, activation_bits: int) -> np.ndarray:
        """Every layer at its largest bit-width up to the given ones, else at its smallest."""
        rows = [
            [_clamp(self.allowed(i), weight_bits), _clamp(self.allowed(i), activation_bits)]
            for i in range(len(self))
        ]
        return np.asarray(rows, np.int32).reshape(len(self), 2)

    @property
    def largest(self) -> np.ndarray:
        """The configuration with every layer at its largest bit-widths."""
        return self.uniform(max(self.candidates), max(self.candidates))

    def allowed(self, index: int) -> list[int]:
        """The bit-widths that layer `index` may take, largest first."""
        return [b for b, has in zip(self.candidates, self.full_mask[index], strict=True) if has]

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
        weight_bits, activation_bits = map(int, uniform.groups())
        for bits in (weight_bits, activation_bits):
            if bits not in self.candidates:
                raise UserError(f"configuration {text!r}: {bits} is not one of {self.candidates}")
        return self.uniform(weight_bits, activation_bits)

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
        allowed = self.allowed(self.names.index(name))
        valid = (
            isinstance(bits, list | tuple) and len(bits) == 2 and all(b in allowed for b in bits)
        )
        if not valid:
            raise UserError(
                f"{source}: layer {name} has {one_line(repr(bits))}; it takes a weight and an "
                f"activation bit-width, each one of {allowed}"
            )
        return list(bits)


def _shown(names: list[str]) -> str:
    return one_line(names or "none")


def _clamp(allowed: list[int], bits: int) -> int:
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
