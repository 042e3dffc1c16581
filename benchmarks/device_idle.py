"""The share of time in which the device waits for the host while it trains.

    python -m benchmarks.device_idle --network=resnet18 --size=224 --batch=128 --precision=bfloat16

Dispatches coupled steps one after the other without waiting, as training does, under JAX's
profiler, and adds up the time in which no kernel runs on the first device. On CPUs this is the time
in which JAX's own threads run nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks.coupled_steps import coupled_step, states
from benchmarks.step_settings import StepTask
from benchmarks.timing import machine, union
from rfquant_jax.models import REGISTRY
from rfquant_jax.nn.precision import TYPES
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.train.step import default_strategy

_NETWORK = flags.DEFINE_enum("network", "cifar_resnet20", sorted(REGISTRY), "to train")
_SIZE = flags.DEFINE_integer("size", 32, "height and width of the images", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "images a device", lower_bound=2)
_PRECISION = flags.DEFINE_enum("precision", "float32", list(TYPES), "compute type")
_STEPS = flags.DEFINE_integer("steps", 10, "steps to measure", lower_bound=2)
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")

# (start of a plane's name, part of a line's name): where the profiler notes what a device runs.
DEVICE_LINES = (("/device:GPU:0", "Stream"), ("/host:CPU", "XLAPjRtCpuClient"))


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    task = StepTask(
        network=_NETWORK.value, size=_SIZE.value, batch=_BATCH.value, precision=_PRECISION.value
    )
    steps = states(coupled_step(task, default_strategy()), task)
    for _ in range(3):
        jax.block_until_ready(next(steps))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_STEPS.value):
                last = next(steps)
            jax.block_until_ready(last)
        [path] = Path(folder).rglob("*.xplane.pb")
        spans = device_spans(jax.profiler.ProfileData.from_file(str(path)))
    busy, whole = union(spans), max(e for _, e in spans) - min(s for s, _ in spans)
    row = {"steps": _STEPS.value, "step_ms": whole / _STEPS.value / 1e6, "idle": 1 - busy / whole}
    print(f"a step {row['step_ms']:.2f} ms; the device is idle for {100 * row['idle']:.1f} % of it")
    if _OUT.value:
        asked = {"network": task.network, "size": task.size, "batch": task.batch}
        asked |= {"precision": task.precision}
        write_json(Path(_OUT.value), {"machine": machine(), "asked": asked, "rows": [row]})


def device_spans(profile: jax.profiler.ProfileData) -> list[tuple[float, float]]:
    """Start and end (ns) of everything that ran on the first GPU, or on the CPU without one.

    Raises:
      SystemExit: the profile has nothing of the kind.
    """
    for plane_name, line_name in DEVICE_LINES:
        spans = [
            (event.start_ns, event.start_ns + event.duration_ns)
            for plane in profile.planes
            if plane.name.startswith(plane_name)
            for line in plane.lines
            if line_name in line.name
            for event in line.events
            if event.duration_ns
        ]
        if spans:
            return spans
    raise SystemExit("the profile has no events of a device")


if __name__ == "__main__":
    app.run(main)
