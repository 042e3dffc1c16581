"""What XLA makes of the programs for an NVIDIA H100; compiled, not run, without any GPU.

    python -m benchmarks.gpu_compile --network=resnet18 --size=224 --batch=128 --classes=1000 \\
        --program=plain,loop,scan,evaluate,search

Compiles the programs of a step ("plain": full precision, and coupled ones by strategy), of an
evaluation and of a search for H100s (benchmarks/gpu_topology.py), and counts kernels, bytes and
operations in the result. The two figures that a change is judged by are the roof and the number of
kernels of a step. The roof is a model of the time (benchmarks/roofline.py), not a measurement.

The peak of a step includes the state of the optimizer and the averages. The workspaces of
convolutions are unknown and count as 0, and a step on a GPU also has memory of the runtime.

Compilation is given in CPU seconds of all threads. --quick leaves out the optimization of machine
code, which comes after everything that is counted here: all other figures stay the same.
"""

from __future__ import annotations

import datetime
import resource
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks import gpu_topology, roofline
from benchmarks.flag_values import check
from benchmarks.gpu_programs import GROUPS, PLAIN, STEPS, Group, group
from benchmarks.rows import rounded
from benchmarks.step_settings import StepTask
from rfquant_jax.models import REGISTRY
from rfquant_jax.nn.precision import TYPES
from rfquant_jax.report.tables import table
from rfquant_jax.runtime.backend import compiling_for
from rfquant_jax.runtime.devices import Compiled, compute_deterministically
from rfquant_jax.runtime.json_files import write_json

_NETWORK = flags.DEFINE_enum("network", "cifar_resnet20", sorted(REGISTRY), "to compile")
_SIZE = flags.DEFINE_integer("size", 32, "height and width of the images", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 128, "images a device", lower_bound=2)
_CLASSES = flags.DEFINE_integer("classes", 10, "number of logits", lower_bound=2)
_PRECISION = flags.DEFINE_enum("precision", "bfloat16", list(TYPES), "compute type")
_PROGRAM = flags.DEFINE_list("program", list(STEPS), f"to compile, of {', '.join(GROUPS)}")
_PASSES = flags.DEFINE_integer("random_passes", 3, "K", lower_bound=1)
_IDM = flags.DEFINE_bool("idm", True, "information distortion mitigation")
_DEVICES = flags.DEFINE_integer("devices", 1, "H100s of one host", lower_bound=1)
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "with deterministic kernels")
_QUICK = flags.DEFINE_bool("quick", False, "without optimization of machine code")
_SLOWEST = flags.DEFINE_integer("slowest", 0, "kernels to print for each program", lower_bound=0)
_HLO = flags.DEFINE_string("hlo", "", "folder for the compiled programs as text")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the numbers")

COLUMNS = {
    "program": "program",
    "times": "calls",
    "compile_cpu_s": "compiling (CPU s)",
    "peak_mb": "peak (MB)",
    "kernels": "kernels",
    "gb": "GB",
    "tops": "10^12 operations",
    "roof_ms": "roof (ms)",
    "copies": "copies",
    "conditionals": "conditionals",
    "all_reduces": "all-reduces",
    "collectives": "collectives",
    "scatters": "scatters",
    "sorts": "sorts",
    "convolution_types": "convolutions",
}
STEP_COLUMNS = {
    "step": "step",
    "kernels": "kernels",
    "roof_ms": "roof (ms)",
    "over_plain": "roof over plain steps",
    "peak_mb": "peak (MB)",
    "peak_over_plain": "peak over a plain step",
}
# Changes nothing before the generation of machine code.
QUICK_OPTIONS = {
    "xla_llvm_disable_expensive_passes": True,
    "xla_backend_optimization_level": 0,
    "xla_gpu_disable_gpuasm_optimizations": True,
    "xla_gpu_force_compilation_parallelism": 1,
}
_ASKED = (
    *("network", "size", "batch", "classes", "precision", "random_passes", "idm", "devices"),
    *("deterministic", "quick"),
)
_ADDED = ("kernels", "bytes", "operations", "roof_s")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    check(_PROGRAM, GROUPS)
    if not gpu_topology.is_installed():
        raise SystemExit(f"benchmarks.gpu_compile {gpu_topology.INSTALL}")
    if _DETERMINISTIC.value:
        compute_deterministically()
    with compiling_for("gpu"):
        programs, steps = measured()
    print(table([_shown(row) for row in programs], COLUMNS))
    if steps:
        print(table([_shown(row) for row in steps], STEP_COLUMNS))
    print("roof: a model; nothing was run. Peaks are without the workspaces of convolutions.")
    if _OUTPUT.value:
        asked = {name: flags.FLAGS[name].value for name in _ASKED}
        content = {"date": datetime.date.today().isoformat(), "jax": jax.__version__}
        content |= {"asked": asked, "programs": programs, "steps": steps}
        write_json(Path(_OUTPUT.value), content)


def measured() -> tuple[list[dict], list[dict]]:
    """The figures of all programs, and of the steps that they are part of."""
    task = StepTask(
        network=_NETWORK.value,
        size=_SIZE.value,
        batch=_BATCH.value,
        random_passes=_PASSES.value,
        precision=_PRECISION.value,
        random_classes=_CLASSES.value,
    )
    mesh = gpu_topology.make_mesh(_DEVICES.value)
    programs, steps = [], []
    for name in _PROGRAM.value:
        own = group(name, task, mesh, idm=_IDM.value)
        rows = compiled(name, own)
        programs += rows
        if name in STEPS:
            steps.append(step_row(name, own, rows))
    compare(steps, 1 + task.random_passes)
    return programs, steps


def compiled(name: str, own: Group) -> list[dict]:
    """Compiles the programs of a group, one after the other; a row for each."""
    rows = []
    for part, (program, arguments) in own.programs.items():
        called = f"{name}: {part}"
        row = {"program": called, "times": own.times.get(part, 1)}
        rows.append(row | compile_one(program, arguments, called))
        print(f"{called}: compiled in {rows[-1]['compile_s']:.0f} s", flush=True)
    return rows


def compile_one(program: Compiled, arguments: tuple, name: str) -> dict:
    """The figures of one program."""
    start, used = time.perf_counter(), _cpu_seconds()
    options = QUICK_OPTIONS if _QUICK.value else None
    executable = program.lower(*arguments).compile(compiler_options=options)
    row = {"compile_s": time.perf_counter() - start, "compile_cpu_s": _cpu_seconds() - used}
    memory, text = executable.memory_analysis(), executable.as_text()
    if _HLO.value:
        path = Path(_HLO.value) / f"{name.replace(': ', '-')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if _SLOWEST.value:
        kernels = roofline.slowest(text, _SLOWEST.value)
        print(table([rounded(kernel) for kernel in kernels], {name: name for name in kernels[0]}))
    row |= {"argument_bytes": memory.argument_size_in_bytes}
    return row | {"peak_bytes": memory.peak_memory_in_bytes} | roofline.analysis(text)


def _cpu_seconds() -> float:
    """CPU time of this process and of the assemblers that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def step_row(name: str, own: Group, rows: list[dict]) -> dict:
    """The figures of a step: all calls of its programs added up, and its peak."""
    without = name != PLAIN and not _IDM.value
    found = {"step": f"{name} without IDM" if without else name}
    found |= {key: sum(row["times"] * row[key] for row in rows) for key in _ADDED}
    found["peak_bytes"] = step_peak(rows, own.beside)
    return found


def step_peak(rows: list[dict], beside: int) -> int:
    """The peak of a step: of a program, with the arrays of the step that it does not take.

    Args:
      beside: see `Group`.
    """
    passes = [row for row in rows if row["program"].endswith("one_pass")] or rows
    of_step = max(row["argument_bytes"] for row in passes) + beside
    return max(row["peak_bytes"] + max(of_step - row["argument_bytes"], 0) for row in rows)


def compare(steps: list[dict], passes: int) -> None:
    """Adds the ratios to plain steps."""
    plain = next((row for row in steps if row["step"] == PLAIN), None)
    for row in steps:
        if plain and row is not plain:
            row["over_plain"] = row["roof_s"] / (passes * plain["roof_s"])
            row["peak_over_plain"] = row["peak_bytes"] / plain["peak_bytes"]


def _shown(row: dict) -> dict:
    found = row | {"peak_mb": row["peak_bytes"] / 1e6, "roof_ms": 1e3 * row["roof_s"]}
    found |= {"gb": row["bytes"] / 1e9, "tops": row["operations"] / 1e12}
    if "convolutions" in row:
        types = [f"{count} {dtypes}" for dtypes, count in row["convolutions"].items()]
        found["convolution_types"] = "; ".join(types) or None
    return rounded(found)


if __name__ == "__main__":
    app.run(main)
