"""A worker process that runs training steps of one kind; started by train_step.py.

    python -m benchmarks.step_worker '{"kind": {...}, "task": {...}, "cache": ""}'

Every kind has its own process, so that peak memory and library threads are separate. The worker
writes one JSON line to standard output after its first step, after warm-up, and for each line of
input, "step" or "memory".
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peak_memory import return_what_is_freed
from benchmarks.step_settings import StepTask
from benchmarks.timing import timed
from rfquant_jax.runtime import host_memory

WARM_STEPS = 3  # the first includes compilation, the last does not


@dataclass(frozen=True)
class Kind:
    """The kind of step to measure.

    Attributes:
      library: "jax" or "torch".
      way: the strategy, "" for the backend's default; for PyTorch, "eager" or "compiled".
      idm: whether information distortion mitigation is enabled.
      without: a kernel for processors that is turned off, see `ops.cpu.switch`.
    """

    library: str
    coupled: bool
    way: str = ""
    idm: bool = True
    without: str = ""

    @property
    def name(self) -> str:
        """The name in tables."""
        step = "coupled" if self.coupled else "plain"
        without = " without IDM" if self.coupled and not self.idm else ""
        peer = "PyTorch " if self.library == "torch" else ""
        off = f" without {self.without}" if self.without else ""
        return f"{peer}{step}{without}{off}" + (f", {self.way}" if self.way else "")


@dataclass
class Stepper:
    """One kind, ready to run.

    Attributes:
      step: runs a step and waits for it.
      images: images per step.
      restart_peak, peak: peak memory in bytes; see `peak_memory`.
      machine: description of the machine.
    """

    step: Callable[[], None]
    images: int
    restart_peak: Callable[[], None]
    peak: Callable[[], int | None]
    machine: dict


def main(argument: str) -> None:
    asked = json.loads(argument)
    kind, task = Kind(**asked["kind"]), StepTask(**asked["task"])
    # Output of libraries must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**content) -> None:
        print(json.dumps(content), file=answers, flush=True)

    if kind.library == "jax":
        host_memory.keep_freed_memory()  # as in launch.py, before JAX starts its threads
    make = importlib.import_module(f"benchmarks.{kind.library}_stepper").make
    stepper = make(kind, task, asked["cache"])
    first = timed(stepper.step)
    answer(first_s=first)
    later = [timed(stepper.step) for _ in range(WARM_STEPS - 1)]
    compiling = max(first - later[-1], 0.0)
    answer(compile_s=compiling, images=stepper.images, machine=stepper.machine)
    for line in sys.stdin:
        if line.strip() == "step":
            answer(seconds=timed(stepper.step))
        else:
            answer(peak_bytes=_peak(stepper))


def _peak(stepper: Stepper) -> int | None:
    """Measures peak memory; after the timed steps, because it slows steps down."""
    return_what_is_freed()
    stepper.step()  # frees unused memory
    stepper.restart_peak()
    for _ in range(2):
        stepper.step()
    return stepper.peak()


if __name__ == "__main__":
    main(sys.argv[1])
