"""Ablation of the training: sampling, smallest pass, scheduler, release, IDM.

    python -m benchmarks.ablation --seeds=10

Trains every variant for each seed; all variants of a seed start from the same full-precision
network. Prints mean top-1 and cross-entropy on the test images, with 95 % intervals (Student's t
over seeds), for uniform and mixed configurations, then paired differences from the first variant,
the published training. Every training is a run of `launch.py` in its own process; finished runs are
reused. Further arguments, including `--config=FILE`, are passed to every run.

A mixed configuration of mean m draws the bits of the weights and activations of each layer from
Normal(m, 0.8), rounded to the nearest allowed bit-width. All variants and seeds use the same
twelve.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from scipy import stats

from rfquant_jax.quant.space import Space
from rfquant_jax.report.tables import table
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.context import Run
from rfquant_jax.tasks.measure import Measure
from rfquant_jax.tasks.workdir import read_json, write_json

_SEEDS = flags.DEFINE_integer("seeds", 10, "number of seeds", lower_bound=2)
_FIRST = flags.DEFINE_integer("first_seed", 0, "first seed", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", "runs/ablation", "folder of the results")
_ONLY = flags.DEFINE_list("only", [], "names of variants; default: all")

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
IDM, SCHEDULER = "losses.information_distortion_mitigation", "scheduler.enabled"
PUBLISHED = {
    "train.sampling": "independent",
    "train.smallest_pass": 0.0,
    SCHEDULER: True,
    "scheduler.release_from": 1.0,
    IDM: True,
}
LEVELS, SMALLEST = {"train.sampling": "levels"}, {"train.smallest_pass": 1.0}
FREE, RELEASED = {SCHEDULER: False}, {"scheduler.release_from": 0.6}
# name -> fields that differ from the published training
VARIANTS = {
    "published": {},
    "published-released": RELEASED,
    "neither": FREE | {IDM: False},
    "scheduler": {IDM: False},
    "idm": FREE,
    "idm-smallest": FREE | SMALLEST,
    "idm-levels": FREE | LEVELS,
    "idm-levels-smallest": FREE | LEVELS | SMALLEST,
    "both-levels-smallest": LEVELS | SMALLEST,
    "both-levels-smallest-released": LEVELS | SMALLEST | RELEASED,
    "levels-smallest": FREE | LEVELS | SMALLEST | {IDM: False},
}
UNIFORM, MIXED, DRAWS = (2, 3, 4, 6), (2.3, 2.7), 12

Figures = dict[str, float]


def mixed(space: Space, mean: float, count: int = DRAWS) -> list[np.ndarray]:
    """Configurations around a mean bit-width, see above; deterministic."""
    rng = np.random.default_rng(round(100 * mean))
    configurations = []
    for _ in range(count):
        draws = rng.normal(mean, 0.8, (len(space), 2))
        allowed = [np.asarray(space.allowed(i)) for i in range(len(space))]
        configurations.append(
            np.asarray(
                [
                    [bits[np.argmin(np.abs(bits - draw))] for draw in row]
                    for bits, row in zip(allowed, draws, strict=True)
                ],
                np.int32,
            )
        )
    return configurations


def figures_of(workdir: Path) -> Figures:
    """Top-1 (%) and cross-entropy of a trained run on its test part, by configurations."""
    run = Run(ConfigDict(read_json(workdir / "config.json")), workdir)
    trained, space = networks.coupled(run), run.plan.space
    measure = Measure(run, trained.functional)
    asked = {f"{bits} bits": [space.uniform(bits, bits)] for bits in UNIFORM}
    asked |= {f"mixed {mean}": mixed(space, mean) for mean in MIXED}
    figures = {}
    for name, configurations in asked.items():
        found = [measure.quantized(run.data.test, trained.params, c) for c in configurations]
        figures[name] = float(np.mean([accuracy.top1_percent for accuracy in found]))
        figures[f"{name}, loss"] = float(np.mean([accuracy.mean_loss for accuracy in found]))
    return figures


def run_seed(
    seed: int, workdir: Path, variants: Mapping[str, Mapping], extra: Sequence[str]
) -> dict[str, Figures]:
    """Results of every variant, from one full-precision network."""
    start, arguments = workdir / "start", [f"--config.seed={seed}", *extra]
    figures = {}
    for name, changes in variants.items():
        done = workdir / f"{name}.json"
        if not done.exists():
            _launch(start, "--config.tasks=pretrain", *arguments)
            fields = [f"--config.{field}={value}" for field, value in (PUBLISHED | changes).items()]
            given = "--config.tasks=train", f"--config.checkpoint={start}"
            _launch(workdir / name, *given, *arguments, *fields)
            write_json(done, figures_of(workdir / name))
        figures[name] = read_json(done)
        print(f"seed {seed}, {name}: {figures[name]}", flush=True)
    return figures


def _launch(workdir: Path, *arguments: str) -> None:
    command = [sys.executable, str(LAUNCH), f"--workdir={workdir}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def summarize(figures: Mapping[str, Sequence[Figures]]) -> list[dict]:
    """One row per variant, and rows of paired differences from the first variant."""
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


def _shown(row: Mapping) -> dict[str, str]:
    """A row of the summary as text, with top-1 and cross-entropy in one cell."""
    cells = {"variant": row["variant"]}
    for name in [name for name in row if f"{name}, loss" in row]:
        top1, loss = row[name], row[f"{name}, loss"]
        cells[name] = f"{top1[0]:.2f} ± {top1[1]:.2f} / {loss[0]:.3f} ± {loss[1]:.3f}"
    return cells


def main(arguments: list[str]) -> None:
    workdir = Path(_WORKDIR.value)
    variants = {name: VARIANTS[name] for name in _ONLY.value or VARIANTS}
    figures: dict[str, list[Figures]] = {name: [] for name in variants}
    for seed in range(_FIRST.value, _FIRST.value + _SEEDS.value):
        for variant, run in run_seed(
            seed, workdir / f"seed{seed}", variants, arguments[1:]
        ).items():
            figures[variant].append(run)
    rows = summarize(figures)
    shown = [_shown(row) for row in rows]
    print(table(shown, {name: name for name in shown[0]}))
    write_json(workdir / "summary.json", {"runs": figures, "rows": rows})


if __name__ == "__main__":
    app.run(main)
