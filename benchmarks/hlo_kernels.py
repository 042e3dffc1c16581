"""The kernels of an optimized HLO module for GPUs, and the bytes that they read and write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.hlo_text import Computation, Instruction, Module

# Not kernels: names for values, and the ends of asynchronous operations.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier"),
}
_COPIES = {"copy", "copy-start", "transpose"}
_SLICES = {"slice", "dynamic-slice", "gather"}
# What may read every element of its operands for each element of the result.
_WHOLE = {"reduce", "dot", "convolution", "custom-call", "sort", "scatter", "reduce-window"}


@dataclass(frozen=True)
class Kernel:
    """An instruction that runs on the device.

    Attributes:
      computation: where its operands are.
      fused: the computation inside it; None if it is not a fusion.
      times: how often a call of the program runs it.
    """

    instruction: Instruction
    computation: Computation
    fused: Computation | None
    times: int

    @property
    def opcodes(self) -> set[str]:
        """Its opcode, or those of the fused instructions."""
        inside = self.fused.values() if self.fused else [self.instruction]
        # A library sorts large arrays.
        return {"sort" if "Sort" in one.target else one.opcode for one in inside}

    @property
    def only_copies(self) -> bool:
        """Whether it moves values, possibly to another order, without computing."""
        return bool(self.opcodes & _COPIES) and self.opcodes <= _COPIES | _FREE | {"reshape"}

    @property
    def operands(self) -> list[Instruction]:
        return [self.computation[name] for name in self.instruction.operands]

    @property
    def bytes(self) -> int:
        """Bytes read and written in one run, if nothing stays in a cache."""
        return round(_fused_bytes(self.fused) if self.fused else _bytes(self))


def kernels(module: Module, name: str = "", times: int = 1) -> Iterator[Kernel]:
    """All kernels of a computation; those of the most expensive branch of a conditional.

    Args:
      name: of the computation; empty: the main one.
    """
    computation = module.computations[name or module.entry]
    for instruction in computation.values():
        called = instruction.called("to_apply") or instruction.called("calls")
        if instruction.opcode == "while":
            count = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"')
            yield from kernels(module, instruction.called("body"), times * int(count or 1))
        elif instruction.opcode == "conditional":
            branches = [list(kernels(module, one, times)) for one in branches_of(instruction)]
            yield from max(branches, key=lambda branch: sum(k.times * k.bytes for k in branch))
        elif instruction.opcode in ("call", "async-start") and called:
            yield from kernels(module, called, times)
        elif instruction.opcode not in _FREE and not instruction.opcode.endswith("-done"):
            is_fusion = instruction.opcode == "fusion"
            fused = module.computations[called] if is_fusion else None
            yield Kernel(instruction, computation, fused, times)


def branches_of(conditional: Instruction) -> list[str]:
    """The computations that a conditional chooses from."""
    several = conditional.attribute(r"branch_computations=\{([^}]*)\}")
    if several:
        return re.findall(r"[\w.\-]+", several)
    return [conditional.called(f"{which}_computation") for which in ("true", "false")]


def _bytes(kernel: Kernel) -> int:
    """Bytes of an instruction outside of fusions."""
    instruction, operands = kernel.instruction, kernel.operands
    if instruction.opcode in _SLICES:
        return 2 * instruction.bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes
    written = instruction.bytes
    if instruction.opcode == "custom-call":
        # Workspaces are u8 arrays; a program has no other ones that a library writes.
        written = sum(array.bytes for array in instruction.arrays if array.dtype != "u8")
    return written + sum(operand.bytes for operand in operands)


def _fused_bytes(fused: Computation) -> float:
    """Bytes of a fusion: its results, and of each parameter the elements that they need."""
    [root] = [instruction for instruction in fused.values() if instruction.is_root]
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    needs = _needs(fused, results)
    read = sum(
        instruction.bytes * needs.get(instruction.name, 0) / max(instruction.elements, 1)
        for instruction in fused.values()
        if instruction.opcode == "parameter"
    )
    return read + sum(_written(fused, result) for result in results)


def _written(fused: Computation, result: Instruction) -> int:
    """Bytes of a result; of an update in place, those of the update."""
    while result.opcode in ("bitcast", "reshape"):
        result = fused[result.operands[0]]
    in_place = result.opcode == "dynamic-update-slice"
    return fused[result.operands[1]].bytes if in_place else result.bytes


def _needs(fused: Computation, results: list[Instruction]) -> dict[str, float]:
    """For each value of a fusion, how many of its elements the results need."""
    needs: dict[str, float] = {result.name: result.elements for result in results}
    for user in reversed(fused.values()):  # users come after what they use
        needed = needs.get(user.name, 0)
        if not needed:
            continue
        for place, name in enumerate(user.operands):
            if name not in fused:  # a computation
                continue
            whole = fused[name].elements
            wanted = min(whole, _wanted(user, place, whole, needed))
            if user.opcode in _SLICES and place == 0:  # slices differ, other users overlap
                needs[name] = min(whole, needs.get(name, 0) + wanted)
            else:
                needs[name] = max(needs.get(name, 0), wanted)
    return needs


def _wanted(user: Instruction, place: int, whole: int, needed: float) -> float:
    """How many elements of its operand number `place` an instruction needs for `needed` ones."""
    if user.opcode == "dynamic-update-slice" and place == 0 and needed == user.elements:
        return 0  # in place, what is not updated stays where it is
    if user.opcode in _WHOLE:
        return whole * needed / max(user.elements, 1)
    if user.opcode in _SLICES and place > 0:
        return whole
    return needed
