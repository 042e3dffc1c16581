"""What each part of the training is worth: sampling, smallest pass, scheduler, release, IDM.

    python -m benchmarks.ablation --seeds=10
    python -m benchmarks.ablation --seeds=10 --only=published,idm-levels-smallest --report_only

Every variant is trained for each seed, all variants of a seed from the same full-precision network:
one that is trained here, or that of the workdir `seedN` in the folder `--starts`. Every training is
one of `launch.py` in a process of its own. A finished one is a line of `runs.jsonl` and is not
repeated; one that was killed continues from its last checkpoint. Arguments behind `--` are handed
on to every run, such as `-- --config=FILE --config.train.epochs=40`.

Prints the mean top-1 and cross-entropy on the test part, with 95 % intervals (Student's t over the
seeds), of uniform and of mixed configurations; then the paired differences from the first variant.
Seeds that lack a variant do not count. `--report_only` prints this for the runs that are there.

A mixed configuration of mean m gives the weights and the activations of each layer the allowed
bit-width nearest to a draw from Normal(m, 0.8). The same twelve serve all variants and seeds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict
from scipy import stats

from rfquant_jax.errors import UserError
from rfquant_jax.quant.space import Space
from rfquant_jax.report.tables import table
from rfquant_jax.runtime.files import LineRecord
from rfquant_jax.runtime.json_files import read_json, write_json
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import measure_of
from rfquant_jax.tasks.run import Run

_SEEDS = flags.DEFINE_integer("seeds", 10, "how many seeds", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_seed", 0, "the first of them", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", "runs/ablation", "folder for all of it")
_STARTS = flags.DEFINE_string("starts", "", "folder of workdirs seed0, seed1, ... to start from")
_REPORT = flags.DEFINE_bool("report_only", False, "train nothing, print what is there")
_ONLY = flags.DEFINE_list("only", [], "names of variants, all by default")

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
flags.register_validator(
    _ONLY, lambda names: set(names) <= VARIANTS.keys(), f"must be of {', '.join(VARIANTS)}"
)
UNIFORM, MIXED, DRAWS = (2, 3, 4, 6), (2.3, 2.7), 12

Figures = dict[str, float]


def mixed(space: Space, mean: float, count: int = DRAWS) -> list[np.ndarray]:
    """Configurations around a mean bit-width, see above; the same at every call."""
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
    measure = measure_of(run, trained.functional)
    asked = {f"{bits} bits": [space.uniform(bits, bits)] for bits in UNIFORM}
    asked |= {f"mixed {mean}": mixed(space, mean) for mean in MIXED}
    figures = {}
    for name, configurations in asked.items():
        found = [measure.quantized(run.data.test, trained.params, c) for c in configurations]
        figures[name] = float(np.mean([accuracy.top1_percent for accuracy in found]))
        figures[f"{name}, loss"] = float(np.mean([accuracy.mean_loss for accuracy in found]))
    return figures


class Runs:
    """The finished runs, one JSON line each: seed, variant, seconds, figures.

    Args:
      path: of the file; its folder is created.
      settings: JSON content that all runs share; None: whatever the file has.

    Raises:
      UserError: the file holds runs with other settings, or is missing where `settings` is None.
    """

    def __init__(self, path: Path, settings: Mapping | None):
        found = path.read_text().splitlines()[:1] if path.exists() else []
        if settings is None and not found:
            raise UserError(f"{path}: there are no finished runs")
        header = json.loads(found[0] if settings is None else json.dumps(settings))
        if found and json.loads(found[0]) != header:
            raise UserError(f"{path}: its runs have other settings ({found[0]}): use --workdir")
        self._record = LineRecord(path, header, lambda line: "figures" in line)

    def figures(self, seed: int, variant: str) -> Figures | None:
        """What a run gave, if it was finished."""
        keys = {"seed": seed, "variant": variant}
        found = [line for line in self._record.lines if keys.items() <= line.items()]
        return found[0]["figures"] if found else None

    def add(self, seed: int, variant: str, seconds: float, figures: Figures) -> None:
        """Notes a finished run."""
        line = {"seed": seed, "variant": variant, "seconds": round(seconds, 1)}
        self._record.append(line | {"figures": figures})

    def paired(self, seeds: Sequence[int], variants: Sequence[str]) -> dict[str, list[Figures]]:
        """Figures of each variant, of the seeds that have all of them."""
        rows = [[self.figures(seed, variant) for variant in variants] for seed in seeds]
        complete = [row for row in rows if None not in row]
        return {variant: [row[i] for row in complete] for i, variant in enumerate(variants)}


def run_seed(
    seed: int, folder: Path, start: Path, variants: Sequence[str], extra: Sequence[str], runs: Runs
) -> None:
    """Trains every variant that is not finished, all from one full-precision network.

    Args:
      folder: for the workdirs of the seed.
      start: workdir of the full-precision network.
    """
    missing = [variant for variant in variants if runs.figures(seed, variant) is None]
    arguments = [f"--config.seed={seed}", *extra]
    if missing and start == folder / "start":
        _launch(start, "--config.tasks=pretrain", *arguments)
    for variant in missing:
        began, workdir = time.monotonic(), folder / variant
        changes = PUBLISHED | VARIANTS[variant]
        fields = [f"--config.{field}={value}" for field, value in changes.items()]
        given = "--config.tasks=train", f"--config.checkpoint={start}"
        _launch(workdir, *given, *arguments, *fields)
        runs.add(seed, variant, time.monotonic() - began, figures_of(workdir))
        print(f"seed {seed}, {variant}: {time.monotonic() - began:.0f} s", flush=True)


def _launch(workdir: Path, *arguments: str) -> None:
    command = [sys.executable, str(LAUNCH), f"--workdir={workdir}", *arguments]
    if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"{workdir}: the run ended with code {code}")


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % interval by Student's t; None for a single value."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), None
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def summarize(figures: Mapping[str, Sequence[Figures]]) -> list[dict]:
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


def _shown(row: Mapping) -> dict[str, str]:
    """A row of the summary as text: top-1 and cross-entropy of a column in one cell."""
    cells = {"variant": row["variant"]}
    for name in [name for name in row if f"{name}, loss" in row]:
        top1, loss = row[name], row[f"{name}, loss"]
        cells[name] = f"{_with_half(top1, 2)} / {_with_half(loss, 3)}"
    return cells


def _with_half(value: tuple[float, float | None], digits: int) -> str:
    mean, half = value
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # the checkpoint library reports every read
    workdir, extra = Path(_WORKDIR.value), arguments[1:]
    variants = _ONLY.value or list(VARIANTS)
    seeds = range(_FIRST.value, _FIRST.value + _SEEDS.value)
    given = {"arguments": extra, "starts": _STARTS.value}
    try:
        runs = Runs(workdir / "runs.jsonl", None if _REPORT.value else given)
    except UserError as error:
        raise SystemExit(str(error)) from error
    for seed in () if _REPORT.value else seeds:
        folder = workdir / f"seed{seed}"
        start = Path(_STARTS.value) / f"seed{seed}" if _STARTS.value else folder / "start"
        run_seed(seed, folder, start, variants, extra, runs)
    figures = runs.paired(seeds, variants)
    count = len(figures[variants[0]])
    print(f"{count} of {len(seeds)} seeds have all of {len(variants)} variants")
    if count:
        rows = summarize(figures)
        shown = [_shown(row) for row in rows]
        print(table(shown, {name: name for name in shown[0]}))
        write_json(workdir / "summary.json", {"runs": figures, "rows": rows})


if __name__ == "__main__":
    app.run(main)
