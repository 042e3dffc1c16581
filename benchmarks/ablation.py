"""The method's two ingredients, one at a time: the scheduler and information distortion mitigation.

    python -m benchmarks.ablation --seeds=10

Four variants of the quickstart (neither, scheduler, IDM, both) for each seed, all from the same
full-precision network. Prints the mean top-1 and its 95 % interval (Student's t over the seeds) of
the uniform and the searched configurations at the 3- and the 2-bit level, and the mean of the
paired differences from "neither". Every run is one of `launch.py` in a process of its own; what was
done before is not done again. Further arguments are handed on to every run, also `--config=FILE`:
any recipe with budgets at these two levels can be compared.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from scipy import stats

from rfquant_jax.report.tables import table
from rfquant_jax.tasks.workdir import read_json, write_json

_SEEDS = flags.DEFINE_integer("seeds", 10, "how many seeds, from 0 on", lower_bound=2)
_WORKDIR = flags.DEFINE_string("workdir", "runs/ablation", "folder for all of it")

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
# name -> whether (the scheduler, information distortion mitigation) is on
VARIANTS = {
    "neither": (False, False),
    "scheduler": (True, False),
    "IDM": (False, True),
    "both": (True, True),
}
LEVELS = (3, 2)  # bits


def run_seed(seed: int, workdir: Path, extra: Sequence[str]) -> dict[str, dict[str, float]]:
    """Top-1 on the test part, for every variant by level."""
    start = workdir / "start"
    budgets = ",".join(f"1.05*w{b}a{b}" for b in LEVELS)
    arguments = [f"--config.seed={seed}", f"--config.search.budgets={budgets}", *extra]
    _launch(start, "--config.tasks=pretrain", *arguments)
    figures = {}
    for variant, (scheduler, mitigation) in VARIANTS.items():
        _launch(
            workdir / variant,
            "--config.tasks=train,search,evaluate",
            f"--config.checkpoint={start}",
            f"--config.scheduler.enabled={scheduler}",
            f"--config.losses.information_distortion_mitigation={mitigation}",
            *arguments,
        )
        rows = read_json(workdir / variant / "results.json")["rows"]
        figures[variant] = {
            f"{row['kind']} {b}": row["top1"] for row in rows for b in LEVELS if _at(row, b)
        }
    return figures


def _launch(workdir: Path, *arguments: str) -> None:
    command = [sys.executable, str(LAUNCH), f"--workdir={workdir}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _at(row: dict, bits: int) -> bool:
    return f"w{bits}a{bits}" in row["name"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def summarize(figures: dict[str, list[dict[str, float]]]) -> list[dict]:
    """A row a variant, and for each but the first a row of paired differences from the first."""
    first = next(iter(figures))
    rows = []
    for variant, runs in figures.items():
        columns = {name: interval([run[name] for run in runs]) for name in runs[0]}
        rows.append({"variant": variant} | columns)
    for variant in list(figures)[1:]:
        pairs = list(zip(figures[variant], figures[first], strict=True))
        columns = {name: interval([a[name] - b[name] for a, b in pairs]) for name in pairs[0][0]}
        rows.append({"variant": f"{variant} - {first}"} | columns)
    return rows


def main(arguments: list[str]) -> None:
    workdir, figures = Path(_WORKDIR.value), {variant: [] for variant in VARIANTS}
    for seed in range(_SEEDS.value):
        for variant, run in run_seed(seed, workdir / f"seed{seed}", arguments[1:]).items():
            figures[variant].append(run)
            print(f"seed {seed}, {variant}: {run}", flush=True)
    rows = summarize(figures)
    shown = [
        {k: v if k == "variant" else f"{v[0]:.2f} ± {v[1]:.2f}" for k, v in row.items()}
        for row in rows
    ]
    print(table(shown, {name: name for name in shown[0]}))
    write_json(workdir / "summary.json", {"runs": figures, "rows": rows})


if __name__ == "__main__":
    app.run(main)
