"""Time of one firing of the bit-width scheduler, compared with one coupled step.

    python -m benchmarks.scheduler --network=resnet18 --size=224 --batch=8

A firing measures the instability of every layer at every bit-width and selects the bit-widths to
freeze. Figures are medians of interleaved measurements in one run, without compilation. The step is
that of `benchmarks.train_step`, on random images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks.coupled_steps import coupled_step, stepper
from benchmarks.rows import rounded
from benchmarks.step_settings import StepTask
from benchmarks.timing import machine, medians, timed
from configs import default
from rfquant_jax.quant.space import Space
from rfquant_jax.report.tables import table
from rfquant_jax.runtime import host_memory
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.train.scheduler import InstabilityMeter, freeze
from rfquant_jax.train.step import TrainStep

_NETWORK = flags.DEFINE_string("network", "resnet18", "key of rfquant_jax.models.REGISTRY")
_SIZE = flags.DEFINE_integer("size", 224, "height and width of the images")
_BATCH = flags.DEFINE_integer("batch", 8, "images")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed runs of each", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    host_memory.keep_freed_memory()
    task = StepTask(network=_NETWORK.value, size=_SIZE.value, batch=_BATCH.value)
    made = coupled_step(task, "loop")
    runs = {"coupled step": stepper(made, task), "firing": firing(*made)}
    compiling = {name: timed(run) for name, run in runs.items()}
    found = medians(runs, _ROUNDS.value)
    ratio = found["firing"] / found["coupled step"]
    rows = [{"what": n, "median_s": found[n], "first_s": compiling[n]} for n in runs]
    columns = {"what": "what", "median_s": "median (s)", "first_s": "first, compiling (s)"}
    shown = [rounded(row) for row in rows]
    print(table(shown, columns))
    print(f"a firing takes {ratio:.3f} of a coupled step")
    if _OUT.value:
        asked = {"network": _NETWORK.value, "size": _SIZE.value, "batch": _BATCH.value}
        write_json(Path(_OUT.value), {"machine": machine(), **asked, "rows": rows, "ratio": ratio})


def firing(step: TrainStep, space: Space) -> Callable[[], object]:
    """The metric of the network's parameters and the masks that follow from it."""
    config = default.get_config().scheduler
    meter = InstabilityMeter(step.functional, config.boundary)
    params = jax.block_until_ready(jax.device_put(step.functional.params))
    mask, ratio = space.full_mask, config.ratio_min + 2 * config.ratio_amplitude

    def fire():
        return freeze(meter(params, mask), space, ratio, split_candidates=False)

    return fire


if __name__ == "__main__":
    app.run(main)
