"""A process that takes training steps of one kind when told to; train_step.py starts them.

    python -m benchmarks.step_worker '{"kind": {...}, "task": {...}, "cache": ""}'

Every kind has a process of its own, so that its peak of memory is its own and no library's threads
are in another's way. It answers on its standard output, a line of JSON each: after its first step,
when it is warm, and to each line of input, "step" or "memory".
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

WARM_STEPS = 3  # the first compiles, the last tells how much of it was compiling


@dataclass(frozen=True)
class Kind:
    """What is measured.

    Attributes:
      library: "jax" or "torch".
      way: the strategy, "" for the backend's default one; of the peer "eager" or "compiled".
      idm: whether information distortion mitigation is on.
    """

    library: str
    coupled: bool
    way: str = ""
    idm: bool = True

    @property
    def name(self) -> str:
        """As tables have it."""
        step = "coupled" if self.coupled else "plain"
        without = " without IDM" if self.coupled and not self.idm else ""
        peer = "PyTorch " if self.library == "torch" else ""
        return f"{peer}{step}{without}" + (f", {self.way}" if self.way else "")


@dataclass
class Stepper:
    """One kind, ready to step.

    Attributes:
      step: takes a step and waits for it.
      images: of a step.
      restart_peak, peak: of memory, in bytes; see `peak_memory`.
      machine: what it runs on.
    """

    step: Callable[[], None]
    images: int
    restart_peak: Callable[[], None]
    peak: Callable[[], int | None]
    machine: dict


def main(argument: str) -> None:
    asked = json.loads(argument)
    kind, task = Kind(**asked["kind"]), StepTask(**asked["task"])
    # What libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**content) -> None:
        print(json.dumps(content), file=answers, flush=True)

    if kind.library == "jax":
        host_memory.keep_freed_memory()  # as launch.py does, before JAX starts its threads
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
    """Of the memory in use; after the steps that are timed, which it makes slower."""
    return_what_is_freed()
    stepper.step()  # gives back what it finds
    stepper.restart_peak()
    for _ in range(2):
        stepper.step()
    return stepper.peak()


if __name__ == "__main__":
    main(sys.argv[1])
