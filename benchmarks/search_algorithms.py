"""Compares search algorithms on trained networks with equal numbers of evaluations.

    python -m benchmarks.search_algorithms --runs=runs/quickstart,runs/another --evaluations=150,500

Every run is the workdir of a finished training; `--config=FILE` names the recipe, and flags
`--config.<field>=VALUE` override it. All algorithms measure configurations on one fixed set of
held-out images; an evaluation is one configuration on all of them. After its last evaluation, an
algorithm gets a constant for every new configuration. For each algorithm, number of evaluations and
budget, prints recalibrated top-1 and cross-entropy of the first proposal on the test images, which
are not used for selection, next to the best uniform configuration within the budget. The
confirmation stage of the task `search` is not included.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from benchmarks.search_rules import RULES
from rfquant_jax.evaluate.evaluator import Accuracy
from rfquant_jax.report.tables import table
from rfquant_jax.runtime.json_files import read_json, write_json
from rfquant_jax.search.image_sets import image_sets
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.measure import candidate_evaluator, measure_of
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import CONFIG_FILE

_RUNS = flags.DEFINE_list("runs", None, "workdirs of trained runs", required=True)
_EVALUATIONS = flags.DEFINE_list(
    "evaluations", ["150", "500"], "evaluations for all budgets together"
)
_IMAGES = flags.DEFINE_integer("images", 500, "maximum number of held-out images")
_RULES = flags.DEFINE_list("rules", list(RULES), "to compare")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")
_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "their recipe")


@dataclass
class Counted:
    """Measures configurations by one metric until the evaluations are used up.

    Repeated configurations are free.
    """

    measure: object  # (configurations, metric) -> float[N]
    metric: str
    left: int
    spent: int = 0
    known: dict[bytes, float] = field(default_factory=dict)

    def __call__(self, configurations: np.ndarray, _: int = 0) -> np.ndarray:
        unknown = {c.tobytes(): c for c in configurations if c.tobytes() not in self.known}
        asked = list(unknown.items())[: self.left]
        if asked:
            values = self.measure(np.stack([c for _, c in asked]), self.metric)
            self.known |= {k: float(v) for (k, _), v in zip(asked, values, strict=True)}
            self.left -= len(asked)
            self.spent += len(asked)
        worst = max(self.known.values(), default=0.0)
        return np.asarray([self.known.get(c.tobytes(), worst) for c in configurations])

    def best(self, budget, space) -> np.ndarray | None:
        """The best measured configuration within a budget."""
        shape = (len(space), 2)
        found = [(v, np.frombuffer(k, np.int32).reshape(shape)) for k, v in self.known.items()]
        within = [(v, c) for v, c in found if budget.fits(c)]
        return min(within, key=lambda pair: pair[0])[1] if within else None


def compare(folder: str) -> list[dict]:
    """One row for each number of evaluations, algorithm and budget."""
    stored = ConfigDict(read_json(Path(folder) / CONFIG_FILE))
    config = _CONFIG.value.copy_and_resolve_references()
    config.update({"model": stored["model"], "seed": stored["seed"]})
    config.checkpoint, config.tasks = folder, ("search",)
    with tempfile.TemporaryDirectory() as workdir:
        return _compare(Run(config, workdir), folder)


def _compare(run: Run, folder: str) -> list[dict]:
    trained = networks.coupled(run)
    measure = _measured_on(run, trained)
    accuracies = _Accuracies(run, trained)
    rows = []
    for number, budget in enumerate(run.budgets):
        [(name, uniform)] = budget.uniform(run.search_space)
        figures = {"rule": "uniform", "evaluations": 0, "spent": 0, "seconds": 0.0}
        rows.append(figures | accuracies.row(folder, number, uniform) | {"name": name})
    for evaluations in map(int, _EVALUATIONS.value):
        for rule in _RULES.value:
            metric = "error" if rule == "paper" else "divergence"
            counted = Counted(measure, metric, evaluations)
            start = time.monotonic()
            found = RULES[rule](run, counted, evaluations)
            seconds = time.monotonic() - start
            figures = {"rule": rule, "evaluations": evaluations, "spent": counted.spent}
            figures["seconds"] = seconds
            print(f"{folder}: {rule}, {counted.spent} evaluations: {seconds:.0f} s", flush=True)
            rows += [figures | accuracies.row(folder, n, c) for n, c in enumerate(found)]
    return rows


def _measured_on(run: Run, trained: networks.Trained):
    """Means of a metric over the same held-out images for every algorithm."""
    count = min(_IMAGES.value, len(run.data.held_out))
    batches = run.pipeline.training(run.data.held_out, count, seed=0, augment=False, whole=True)
    sets = image_sets([batches[0]], run.config.search.batch_size)
    evaluators = {m: candidate_evaluator(run, trained, sets, m) for m in ("error", "divergence")}
    for evaluator in evaluators.values():  # compiles
        evaluator.mean(run.plan.space.uniform(4, 4)[None], sets.numbers(0))
    return lambda configurations, metric: evaluators[metric].mean(configurations, sets.numbers(0))


class _Accuracies:
    """Test accuracies of configurations, each measured once."""

    def __init__(self, run: Run, trained: networks.Trained):
        self._run, self._trained = run, trained
        self._measure = measure_of(run, trained.functional)
        self._known: dict[bytes, Accuracy] = {}

    def row(self, folder: str, number: int, configuration: np.ndarray) -> dict:
        key = configuration.tobytes()
        if key not in self._known:
            self._known[key] = self._measure.quantized(
                self._run.data.test, self._trained.params, configuration
            )
        accuracy, budget = self._known[key], self._run.budgets[number]
        if not budget.fits(configuration):
            raise SystemExit(f"{budget.text}: a proposal is not within the budget")
        figures = {"top1": accuracy.top1_percent, "cross_entropy": accuracy.mean_loss}
        return {"run": folder, "budget": budget.text} | figures


def summarize(rows: list[dict]) -> list[dict]:
    """One row for each algorithm and number of evaluations: means over runs, by budget."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    shown = []
    for evaluations, rule in dict.fromkeys((row["evaluations"], row["rule"]) for row in rows):
        own = [r for r in rows if (r["evaluations"], r["rule"]) == (evaluations, rule)]
        line = {"evaluations": evaluations or None, "rule": rule}
        for budget in budgets:
            line[budget] = _pair([r for r in own if r["budget"] == budget])
        line["mean"] = _pair(own)
        line["seconds"] = f"{np.mean([r['seconds'] for r in own]):.0f}"
        shown.append(line)
    return shown


def _pair(rows: list[dict]) -> str:
    """Mean top-1 in percent and mean cross-entropy."""
    means = [np.mean([row[name] for row in rows]) for name in ("top1", "cross_entropy")]
    return f"{means[0]:.2f} / {means[1]:.4f}"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    rows = []
    for folder in _RUNS.value:
        rows += compare(folder)
        if _OUT.value:
            write_json(Path(_OUT.value), rows)
    shown = summarize(rows)
    print(table(shown, {name: name for name in shown[0]}))


if __name__ == "__main__":
    app.run(main)
