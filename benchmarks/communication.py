"""Communication between devices in a coupled step, from the compiled programs.

    python -m benchmarks.communication --network=resnet18 --devices=8

Uses fake CPU devices. The required communication is one all-reduce of gradients and running
statistics. Bytes are those sent by one device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.coupled_steps import RATES, coupled_step
from benchmarks.step_settings import StepTask, images
from benchmarks.timing import machine
from rfquant_jax.report.tables import table
from rfquant_jax.runtime import devices
from rfquant_jax.runtime.json_files import write_json
from rfquant_jax.train.step import TrainStep

_DEVICES = flags.DEFINE_integer("devices", 8, "fake devices")
_NETWORK = flags.DEFINE_string("network", "cifar_resnet20", "of rfquant_jax.models.REGISTRY")
_SIZE = flags.DEFINE_integer("size", 32, "height and width of the images")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")

KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    count = _DEVICES.value
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
    task = StepTask(_NETWORK.value, _SIZE.value)
    step, space = coupled_step(task, "loop")
    rows = [
        {"program": name, "collectives": len(found), "bytes": sum(found)}
        for name, text in programs(step, np.stack([space.full_mask] * 2), task)
        for found in [exchanged(text)]
    ]
    needed = sum(
        4 * x.size for x in (*step.functional.params.values(), *step.functional.stats.values())
    )
    ratio = sum(row["bytes"] for row in rows) / needed
    print(table(rows, {name: name for name in rows[0]}))
    print(f"gradients and statistics: {needed} bytes; exchanged over needed: {ratio:.6f}")
    if _OUT.value:
        asked = {"network": task.network, "devices": count}
        content = {"machine": machine(), "asked": asked, "rows": rows, "needed_bytes": needed}
        write_json(Path(_OUT.value), content)


def programs(step: TrainStep, masks: np.ndarray, task: StepTask) -> Iterator[tuple[str, str]]:
    """Every program of a step, compiled: its name and text."""
    batch = devices.split(next(iter(images(task, step.mesh.size))), step.mesh)
    inputs = step.inputs(masks, jax.random.key(0), **RATES)
    found = step.programs(step.init(step.functional.params), batch, inputs)
    for name, (compiled, values) in found.items():
        yield name, compiled.lower(*values).compile().as_text()


def exchanged(text: str) -> list[int]:
    """Bytes of each collective operation in the text of a compiled program."""
    found = re.findall(rf"= (.*?) (?:{KINDS})(?:-start)?\(", text)
    widths = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "f64": 8}
    return [
        sum(
            widths[kind] * int(np.prod([int(n) for n in shape.split(",") if n]))
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", types)
        )
        for types in found
    ]


if __name__ == "__main__":
    app.run(main)
