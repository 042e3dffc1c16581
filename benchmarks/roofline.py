"""A model of a program's time on an H100, from its compiled kernels; not a measurement.

A kernel takes max(operations / peak, bytes / bandwidth). Operations are those of convolutions and
matrix products. The sum over all kernels is the roof: the program cannot be faster without other
kernels, and small ones take longer, because a kernel costs some microseconds to launch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.hlo_kernels import Kernel, kernels
from benchmarks.hlo_text import Array, Computation, Instruction, parse

BANDWIDTH = 3.35e12  # bytes a second
# Operations a second by the operands' dtype; float32 as TF32.
PEAK = {"s8": 1979e12, "bf16": 989e12, "f16": 989e12, "f32": 494e12}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")


@dataclass(frozen=True)
class Product:
    """Convolutions or matrix products of a kernel.

    Attributes:
      dtypes: of the two operands and the result, such as "bf16,bf16->bf16".
    """

    operations: int
    dtypes: str
    is_convolution: bool

    @property
    def peak(self) -> float:
        return PEAK.get(self.dtypes.partition(",")[0], PEAK["f32"])


def analysis(text: str) -> dict:
    """What XLA made of a program: counts, bytes and operations of one call, and its roof.

    Returns:
      kernels, bytes, operations and roof_s (s) over all kernels, with repetitions; convolutions
      {dtypes: count}; copies, scatters, sorts, all_reduces and collectives, with repetitions;
      conditionals and loops in the text.
    """
    module = parse(text)
    found = list(kernels(module))
    opcodes = Counter(i.opcode for c in module.computations.values() for i in c.values())
    return {
        "kernels": sum(kernel.times for kernel in found),
        "bytes": sum(kernel.times * kernel.bytes for kernel in found),
        "operations": sum(kernel.times * operations(kernel) for kernel in found),
        "roof_s": sum(kernel.times * seconds(kernel) for kernel in found),
        "convolutions": convolutions(found),
        "copies": sum(kernel.times for kernel in found if kernel.only_copies),
        "scatters": _count(found, "scatter", "select-and-scatter"),
        "sorts": _count(found, "sort"),
        "all_reduces": _count(found, "all-reduce", "all-reduce-start"),
        "collectives": _count(found, *COLLECTIVES, *(f"{name}-start" for name in COLLECTIVES)),
        "conditionals": opcodes["conditional"],
        "loops": opcodes["while"],
    }


def slowest(text: str, most: int) -> list[dict]:
    """The kernels that take longest in the model, with the operation that they come from."""
    found = sorted(kernels(parse(text)), key=lambda k: -k.times * seconds(k))
    return [
        {
            "kernel": kernel.instruction.name,
            "times": kernel.times,
            "us": 1e6 * kernel.times * seconds(kernel),
            "mb": kernel.bytes / 1e6,
            "gops": operations(kernel) / 1e9,
            "type": kernel.instruction.type[:80],
            "from": kernel.instruction.attribute(r'op_name="([^"]*)"') or "",
        }
        for kernel in found[:most]
    ]


def seconds(kernel: Kernel) -> float:
    """The modelled time of one run."""
    computing = sum(product.operations / product.peak for product in products(kernel))
    return max(computing, kernel.bytes / BANDWIDTH)


def operations(kernel: Kernel) -> int:
    """Operations of a kernel's convolutions and matrix products; a multiply-add counts as two."""
    return sum(product.operations for product in products(kernel))


def convolutions(found: Iterable[Kernel]) -> dict[str, int]:
    """The number of convolutions by the dtypes of operands and result."""
    counts: Counter[str] = Counter()
    for kernel in found:
        for product in products(kernel):
            if product.is_convolution:
                counts[product.dtypes] += kernel.times
    return dict(counts.most_common())


def products(kernel: Kernel) -> list[Product]:
    """The convolutions and matrix products of a kernel."""
    inside = kernel.fused or kernel.computation
    candidates = kernel.fused.values() if kernel.fused else [kernel.instruction]
    found = []
    for instruction in candidates:
        if instruction.opcode == "convolution" or "$conv" in instruction.target:
            found.append(_product(instruction, inside, _convolution, True))
        elif instruction.opcode == "dot" or "cublas" in instruction.target:
            found.append(_product(instruction, inside, _matrix_product, False))
    return found


def _product(instruction: Instruction, inside: Computation, count, is_convolution) -> Product:
    first, second = (inside[name].arrays[0] for name in instruction.operands[:2])
    result = instruction.arrays[0]
    dtypes = f"{first.dtype},{second.dtype}->{result.dtype}"
    return Product(count(instruction, first, second, result), dtypes, is_convolution)


def _convolution(instruction: Instruction, first: Array, second: Array, result: Array) -> int:
    """Each output element is a sum over the kernel's window and input channels."""
    if "BackwardFilter" in instruction.target:  # of images and output gradients
        output, kernel = second, result
    elif "BackwardInput" in instruction.target:  # of output gradients and the kernel
        output, kernel = first, second
    else:
        output, kernel = result, second
    labels = instruction.attribute(r"dim_labels=\w+?_(\w+)->")
    return 2 * output.elements * kernel.elements // kernel.shape[labels.index("o")]


def _matrix_product(instruction: Instruction, first: Array, second: Array, result: Array) -> int:
    dimensions = (
        instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        or instruction.attribute(r'"lhs_contracting_dimensions":\[([\d,"]*)\]')
        or ""
    )
    contracted = [int(n.strip('"')) for n in dimensions.split(",") if n]
    return 2 * result.elements * math.prod(first.shape[n] for n in contracted)


def _count(found: Iterable[Kernel], *opcodes: str) -> int:
    """How many kernels with one of these opcodes run."""
    return sum(kernel.times for kernel in found if kernel.opcodes & set(opcodes))
