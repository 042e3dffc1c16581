"""The largest batch that fits on a GPU, from the compiled memory of two batches.

    python -m benchmarks.gpu_compile --program=scan --batch=128 --output=a.json
    python -m benchmarks.gpu_compile --program=scan --batch=256 --output=b.json
    python -m benchmarks.gpu_batches --results=a.json,b.json

Peak memory is a line in the number of images: parameters, gradients and the state of the optimizer,
and the activations of each image. From a single batch all of it is taken to grow with the batch, so
that the result is too small rather than too large. JAX reserves 75 % of a GPU
(XLA_PYTHON_CLIENT_MEM_FRACTION). The workspaces of convolutions are unknown and come in addition,
so leave room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.rows import rounded
from rfquant_jax.report.tables import table
from rfquant_jax.runtime.json_files import read_json

_RESULTS = flags.DEFINE_list("results", [], "JSON files of benchmarks.gpu_compile")
_MEMORY = flags.DEFINE_list("memory", ["24", "40", "80"], "of GPUs, in GB")
_FRACTION = flags.DEFINE_float(
    "fraction", 0.75, "of the memory that JAX uses", lower_bound=0.01, upper_bound=1
)
_MULTIPLE = flags.DEFINE_integer("multiple", 32, "batches are multiples of this", lower_bound=1)


def main(_: list[str]) -> None:
    memory = [float(size) for size in _MEMORY.value]
    rows = []
    for (network, step), peaks in sorted(collected(map(read_json, map(Path, _RESULTS.value)))):
        fixed, each = line(peaks)
        row = {"network": f"{network}, {step}", "fixed": fixed / 1e6, "each": each / 1e6}
        row |= {
            size: largest(1e9 * size * _FRACTION.value, fixed, each, _MULTIPLE.value)
            for size in memory
        }
        rows.append(row)
    columns = {"network": "", "fixed": "fixed (MB)", "each": "an image (MB)"}
    columns |= {size: f"batch in {size:g} GB" for size in memory}
    print(table([rounded(row) for row in rows], columns))


def collected(
    results: Iterable[dict],
) -> list[tuple[tuple[str, str], list[tuple[int, int]]]]:
    """For each network and step of several results, its (batch, peak in bytes)."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    for result in results:
        asked = result["asked"]
        for row in result["steps"]:
            peaks = found.setdefault((f"{asked['network']} {asked['size']}", row["step"]), {})
            peaks[asked["batch"]] = row["peak_bytes"]
    return [(key, sorted(peaks.items())) for key, peaks in found.items()]


def line(peaks: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bytes without images, and bytes an image, through the smallest and the largest batch.

    Through a single batch: proportional to it.
    """
    (first, least), (last, most) = peaks[0] if len(peaks) > 1 else (0, 0), peaks[-1]
    each = (most - least) / (last - first)
    return least - each * first, each


def largest(memory: float, fixed: float, each: float, multiple: int) -> int:
    """The largest multiple that fits, 0 if none does."""
    return max(int((memory - fixed) / each) // multiple * multiple, 0)


if __name__ == "__main__":
    app.run(main)
