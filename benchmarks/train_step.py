"""Time and memory of a coupled step, compared with plain steps and with PyTorch.

    python -m benchmarks.train_step --network=cifar_resnet20 --batch=64 --peer=eager

A coupled step of 1 + K passes is compared with 1 + K plain full-precision steps of the same
network, batch and optimizer; a ratio of 1 means no overhead. --peer compares with the same steps in
PyTorch (benchmarks/requirements.txt), either "eager" or "compiled" by torch.compile. Every kind of
step runs in its own process; their steps are interleaved. Under other load, the comparison with
PyTorch is unreliable, because its threads synchronize at every layer. --folder=DIR uses real
images, laid out as DIR/<class>/*. --without=depthwise,pointwise adds coupled steps with one kernel
for processors turned off (rfquant_jax/ops/cpu/switch.py). With --cache=DIR, programs come from the
compilation cache, so that the time of compiling says nothing.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import workers
from benchmarks.flag_values import check
from benchmarks.rows import rounded
from benchmarks.step_settings import StepTask
from benchmarks.step_worker import Kind
from rfquant_jax.models import REGISTRY
from rfquant_jax.nn.precision import TYPES
from rfquant_jax.ops.cpu import switch
from rfquant_jax.report.tables import table
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.train.step import STRATEGIES

PEERS = ("eager", "compiled")
KINDS = ("plain", "coupled", "coupled_without", "coupled_noidm", "peer_plain", "peer_coupled")

_NETWORK = flags.DEFINE_enum("network", "cifar_resnet20", sorted(REGISTRY), "to train")
_SIZE = flags.DEFINE_integer("size", 32, "height and width of the images", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "images a device", lower_bound=2)
_PRECISION = flags.DEFINE_enum("precision", "float32", list(TYPES), "compute type")
_PASSES = flags.DEFINE_integer("random_passes", 3, "K", lower_bound=0)
_IDM = flags.DEFINE_bool("idm", True, "information distortion mitigation")
_STRATEGIES = flags.DEFINE_list(
    "strategies", [], "strategies to compare; empty: the backend's default"
)
_PEER = flags.DEFINE_list("peer", [], f"PyTorch, of {', '.join(PEERS)}; empty: without it")
_KINDS = flags.DEFINE_list("kinds", [], f"to measure, of {', '.join(KINDS)}; empty: all")
_WITHOUT = flags.DEFINE_list(
    "without", [], f"kernels to turn off, one at a time, of {', '.join(switch.KERNELS)}"
)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "timed steps of each kind", lower_bound=1)
_STARTS = flags.DEFINE_bool(
    "second_start", False, "measure start-up with and without compilation cache"
)
_CACHE = flags.DEFINE_string("cache", "", "folder of a compilation cache; empty: none")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "deterministic kernels on GPUs")
_FOLDER = flags.DEFINE_string("folder", "", "class folders of images; empty: random pixels")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")

COLUMNS = {
    "step": "step",
    "median_ms": "median (ms)",
    "over_plain": "over plain",
    "over_ours": "over ours",
    "images_per_s": "images/s",
    "peak_mib": "peak (MiB)",
    "peak_over_plain": "over plain's",
    "compile_s": "compiling (s)",
    "compile_over_plain": "over plain's",
}


def main(_: list[str]) -> None:
    check(_STRATEGIES, STRATEGIES)
    check(_PEER, PEERS)
    check(_KINDS, KINDS)
    check(_WITHOUT, switch.KERNELS)
    if _PEER.value:
        check_peer()
    task = StepTask(
        network=_NETWORK.value,
        size=_SIZE.value,
        batch=_BATCH.value,
        random_passes=_PASSES.value,
        precision=_PRECISION.value,
        folder=_FOLDER.value,
        deterministic=_DETERMINISTIC.value,
    )
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"other work runs beside this (load {load:.1f}): the numbers will mean little")
    content = {"date": datetime.date.today().isoformat(), "load": load, "asked": asdict(task)}
    kinds = chosen()
    content |= started(kinds, task) if _STARTS.value else compared(kinds, task)
    if _OUT.value:
        write_json(Path(_OUT.value), content)


def check_peer() -> None:
    """Raises before any work if the comparison with PyTorch is not possible."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("--peer needs PyTorch: pip install -r benchmarks/requirements.txt")
    importlib.import_module("benchmarks.peer_networks").check(_NETWORK.value)


def chosen() -> list[Kind]:
    """The kinds to measure, plain ones first."""
    idm, ways = _IDM.value, _STRATEGIES.value or [""]
    found = {
        "plain": [Kind("jax", coupled=False)],
        "coupled": [Kind("jax", True, way, idm) for way in ways],
        "coupled_without": [Kind("jax", True, ways[0], idm, name) for name in _WITHOUT.value],
        "coupled_noidm": [Kind("jax", True, ways[0], idm=False)] if idm else [],
        "peer_plain": [Kind("torch", False, way) for way in _PEER.value],
        "peer_coupled": [Kind("torch", True, way, idm) for way in _PEER.value],
    }
    return [kind for name in KINDS if name in (_KINDS.value or KINDS) for kind in found[name]]


def compared(kinds: Sequence[Kind], task: StepTask) -> dict:
    """Measures all kinds, interleaved, and prints the table."""
    told = workers.measured(kinds, task, _ROUNDS.value, _CACHE.value)
    rows = rows_of(kinds, told, 1 + task.random_passes)
    print(table([_shown(row) for row in rows], COLUMNS))
    print(f"over plain: a coupled step over {1 + task.random_passes} plain ones, also of PyTorch's")
    print("peak: of memory in use; a process on processors holds more (runtime/host_memory.py)")
    if any(row["peak_bytes"] is None for row in rows):
        print("the peak of memory needs Linux and a writable /proc/self/clear_refs")
    machine = {name: value for own in told for name, value in own["machine"].items()}
    return {"machine": machine, "rows": rows}


def rows_of(kinds: Sequence[Kind], told: Sequence[dict], passes: int) -> list[dict]:
    """The figures of each kind, and ratios to other measured kinds."""
    rows = []
    for kind, own in zip(kinds, told, strict=True):
        median = float(np.median(own["seconds"]))
        rows.append(
            {"step": kind.name, **asdict(kind), "seconds": own["seconds"], "median_s": median}
            | {"images_per_s": own["images"] / median}
            | {name: own[name] for name in ("peak_bytes", "first_s", "compile_s")}
            | ({"compile_s": None} if kind.way == "eager" else {})
        )
    for kind, row in zip(kinds, rows, strict=True):
        row |= ratios(kind, row, dict(zip(kinds, rows, strict=True)), passes)
    return rows


def ratios(kind: Kind, row: dict, rows: dict[Kind, dict], passes: int) -> dict:
    """Ratios of a coupled step to plain steps of the same library, and of PyTorch to JAX."""
    found = {}
    plain = rows.get(Kind(kind.library, False, kind.way if kind.library == "torch" else ""))
    if kind.coupled and plain:
        found["over_plain"] = row["median_s"] / (passes * plain["median_s"])
        if plain["peak_bytes"]:
            found["peak_over_plain"] = row["peak_bytes"] / plain["peak_bytes"]
        if plain["compile_s"]:
            found["compile_over_plain"] = row["compile_s"] / plain["compile_s"]
    ways = (_STRATEGIES.value or [""]) if kind.coupled else [""]
    ours = rows.get(Kind("jax", kind.coupled, ways[0], kind.idm))
    if kind.library == "torch" and ours:
        # Per image, because JAX may use several devices.
        found["over_ours"] = ours["images_per_s"] / row["images_per_s"]
    return found


def started(kinds: Sequence[Kind], task: StepTask) -> dict:
    """Measures the time from process start to the first step for JAX kinds."""
    rows = []
    for kind in kinds:
        if kind.library == "jax":
            rows.append({"step": kind.name, **workers.starts(kind, task)})
            print(f"{kind.name}: done", flush=True)
    columns = {"first_start_s": "empty cache (s)", "second_start_s": "full cache (s)"}
    print(table([rounded(row) for row in rows], {"step": "until the first step"} | columns))
    return {"starts": rows}


def _shown(row: dict) -> dict:
    peak = row["peak_bytes"]
    figures = {"median_ms": 1000 * row["median_s"], "peak_mib": peak and peak / 2**20}
    return rounded(row | figures)


if __name__ == "__main__":
    app.run(main)
