"""Reads the text of an optimized HLO module, as `compiled.as_text()` returns it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_START = re.compile(r"\s+(ROOT )?%?(\S+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?(\S+) \(.*\{\s*$")


@dataclass(frozen=True)
class Array:
    """One array of a value."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype] * self.elements


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      type: the result's type, as text.
      operands: names, in order.
      literal: the text between the parentheses, for parameters and constants.
      attributes: what follows the operands.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result; several for a tuple."""
        found = _ARRAY.findall(self.type)
        return tuple(
            Array(dtype, tuple(int(n) for n in shape.split(",") if n))
            for dtype, shape in found
            if dtype in BYTES
        )

    @cached_property
    def elements(self) -> int:
        """Elements of the result's largest array."""
        return max((array.elements for array in self.arrays), default=0)

    @cached_property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def called(self, key: str) -> str | None:
        """The computation of an attribute, such as `calls` or `body`."""
        return self.attribute(rf"\b{key}=%?([\w.\-]+)")

    @property
    def target(self) -> str:
        """What a custom call calls; empty for other instructions."""
        return self.attribute(r'custom_call_target="([^"]*)"') or ""


# Instructions by name, in the order in which they run.
Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Module:
    """The computations of a program by name; `entry` is the name of the main one."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """The computations of a module."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if found := _COMPUTATION.match(line):
                current = computations.setdefault(found[2], {})
                entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif _START.match(line):
            instruction = parse_instruction(line)
            current[instruction.name] = instruction
    return Module(computations, entry)


def parse_instruction(line: str) -> Instruction:
    """One line, `[ROOT ]%name = type opcode(operands), attributes`."""
    start = _START.match(line)
    rest = line[start.end() :]
    # A tuple's type has parentheses and spaces, an array's has neither.
    length = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:length], rest[length:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        name=start[2],
        type=kind,
        opcode=rest[:opening],
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        literal=inside,
        attributes=rest[closing + 1 :],
        is_root=bool(start[1]),
    )


def _closing(text: str, opening: int) -> int:
    """The index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"unbalanced parentheses: {text[:80]}")
