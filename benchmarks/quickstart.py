"""The quickstart over several seeds: accuracies compared with goals, and time.

    python -m benchmarks.quickstart --seeds=0,1,2 --workdir=runs/quickstart-seeds

Every seed is a run of `launch.py` in its own process, which gets all further arguments. For each
budget, prints mean top-1 and cross-entropy over seeds of the best equal-bits uniform configuration
and of the searched one on the test images, and the gain of each seed. Also writes these as JSON.
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

from rfquant_jax.report.tables import paired, table
from rfquant_jax.runtime.json_files import write_json

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds to run")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart-seeds", "folder of the results")

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
# Minimum mean accuracy of the searched configuration over the seeds, in percent.
GOALS = {"1.05*w2a2": 95.7, "1.15*w2a2": 96.0, "1*w3a3": 97.2, "1*w4a4": 98.0}


def run_seed(seed: int, workdir: Path, extra: Sequence[str]) -> dict:
    """One run: the content of `results.json`, and its seconds (0 if finished before)."""
    folder = workdir / f"seed{seed}"
    known = (folder / "results.json").exists()
    start = time.monotonic()
    command = [sys.executable, str(LAUNCH), f"--workdir={folder}", f"--config.seed={seed}", *extra]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = 0.0 if known else time.monotonic() - start
    return json.loads((folder / "results.json").read_text()) | {"seconds": seconds}


def summarize(results: Sequence[dict]) -> list[dict]:
    """One row per budget: means over seeds, and the paired gain of each seed."""
    rows = []
    for budget in [row["name"] for row in results[0]["rows"] if row["kind"] == "searched"]:
        searched = [_row(result, "searched", budget) for result in results]
        gains = [row["gain"] for row in searched]
        uniform = [
            _row(result, "uniform", gain["over"])
            for result, gain in zip(results, gains, strict=True)
        ]
        row = {"budget": budget, "over": "/".join(dict.fromkeys(g["over"] for g in gains))}
        for name, found in (("uniform", uniform), ("searched", searched)):
            row[name] = float(np.mean([one["top1"] for one in found]))
            row[f"{name} loss"] = float(np.mean([one["cross_entropy"] for one in found]))
        row["gains"] = ", ".join(paired(g["top1"], g["top1_interval"], 1) for g in gains)
        rows.append(row)
    return rows


def _row(result: dict, kind: str, name: str) -> dict:
    return next(r for r in result["rows"] if (r["kind"], r["name"]) == (kind, name))


def main(arguments: list[str]) -> None:
    workdir = Path(_WORKDIR.value)
    results = [run_seed(int(seed), workdir, arguments[1:]) for seed in _SEEDS.value]
    rows = summarize(results)
    full = float(np.mean([result["full_precision"]["top1"] for result in results]))
    print(f"full precision: {full:.2f} %")
    shown = [
        {
            k: (f"{v:.4f}" if "loss" in k else f"{v:.2f}") if isinstance(v, float) else v
            for k, v in row.items()
        }
        for row in rows
    ]
    print(table(shown, {name: name for name in rows[0]}))
    print("seconds: " + ", ".join(f"{result['seconds']:.0f}" for result in results))
    reached = {
        row["budget"]: row["searched"] >= GOALS[row["budget"]]
        for row in rows
        if row["budget"] in GOALS
    }
    for budget, yes in reached.items():
        print(f"{'reached' if yes else 'MISSED '}  {budget}: at least {GOALS[budget]} %")
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    content = {"machine": machine, "full_precision": full, "rows": rows, "goals": reached}
    content["seconds"] = [result["seconds"] for result in results]
    write_json(workdir / "summary.json", content)


if __name__ == "__main__":
    app.run(main)
