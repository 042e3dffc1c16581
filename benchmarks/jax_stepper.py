"""Steps of this project for a worker process."""

from __future__ import annotations

import jax

from benchmarks import coupled_steps
from benchmarks.peak_memory import HostPeak
from benchmarks.step_settings import StepTask
from benchmarks.step_worker import Kind, Stepper
from benchmarks.timing import machine
from rfquant_jax.ops.cpu import switch
from rfquant_jax.runtime.devices import compute_deterministically
from rfquant_jax.train.step import default_strategy


def make(kind: Kind, task: StepTask, cache: str) -> Stepper:
    """The steps of a kind.

    Args:
      cache: folder of the compilation cache; empty: no cache.
    """
    jax.config.update("jax_enable_compilation_cache", bool(cache))
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if task.deterministic:
        compute_deterministically()
    if kind.without:
        switch.turn_off(kind.without)  # this process measures nothing else
    device = jax.devices()[0]
    host = HostPeak(lambda: sum(array.nbytes for array in jax.live_arrays()))
    if kind.coupled:
        strategy = kind.way or default_strategy()
        made = coupled_steps.coupled_step(task, strategy, idm=kind.idm)
    else:
        made = coupled_steps.plain_step(task)

    def on_device() -> int:
        return device.memory_stats()["peak_bytes_in_use"]

    return Stepper(
        step=coupled_steps.stepper(made, task),
        images=task.batch * made[0].mesh.size,
        restart_peak=host.restart,
        peak=host.bytes if device.platform == "cpu" else on_device,
        machine=machine(),
    )
