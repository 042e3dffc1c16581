"""The quickstart over several seeds: accuracies against its goals, and time.

    python -m benchmarks.quickstart --seeds=0,1,2 --workdir=runs/quickstart-seeds

Every seed is a run of `launch.py` in a process of its own; further arguments are handed on to it.
Prints a table of the seeds and their mean, and writes it as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from rfquant_jax.report.tables import table
from rfquant_jax.tasks.workdir import write_json

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds to run")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart-seeds", "folder for all of it")

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
FULL_PRECISION_GOAL = 98.0  # percent, at least
# bits of the budget -> points that the searched configuration may lie below full precision
LOSS_GOALS = {4: 0.6, 3: 1.0, 2: 2.5}


def run_seed(seed: int, workdir: Path, extra: Sequence[str]) -> dict:
    """One run; returns its accuracies in percent and its seconds (0 if it had run before)."""
    folder = workdir / f"seed{seed}"
    known = (folder / "results.json").exists()
    start = time.monotonic()
    command = [sys.executable, str(LAUNCH), f"--workdir={folder}", f"--config.seed={seed}", *extra]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = 0.0 if known else time.monotonic() - start
    results = json.loads((folder / "results.json").read_text())
    row = {"seed": str(seed), "full precision": results["full_precision"]["top1"]}
    for result in results["rows"]:
        bits = next(b for b in LOSS_GOALS if f"w{b}a{b}" in result["name"])
        row[f"{result['kind']} {bits}"] = result["top1"]
    return row | {"seconds": seconds}


def main(arguments: list[str]) -> None:
    workdir = Path(_WORKDIR.value)
    rows = [run_seed(int(seed), workdir, arguments[1:]) for seed in _SEEDS.value]
    columns = [name for name in rows[0] if name != "seed"]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in columns}
    shown = [*rows, {"seed": "mean"} | mean]
    text = [{k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in shown]
    print(table(text, {"seed": "seed"} | {name: name for name in columns}))
    reached = {
        f"full precision >= {FULL_PRECISION_GOAL}": mean["full precision"] >= FULL_PRECISION_GOAL
    }
    for bits, points in LOSS_GOALS.items():
        lost = mean["full precision"] - mean[f"searched {bits}"]
        reached[f"searched {bits}-bit: {lost:.2f} points lost, at most {points}"] = lost <= points
    for goal, yes in reached.items():
        print(f"{'reached' if yes else 'MISSED '}  {goal}")
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    content = {"machine": machine, "rows": shown, "goals": reached}
    write_json(workdir / "summary.json", content)


if __name__ == "__main__":
    app.run(main)
