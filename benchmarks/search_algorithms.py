"""Compares search algorithms on trained networks with equal numbers of evaluations.

    python -m benchmarks.search_algorithms --runs=runs/quickstart,runs/another --evaluations=150,500

Every run is the workdir of a finished training; `--config=FILE` names the recipe, and flags
`--config.<field>=VALUE` override it. All algorithms measure configurations on one fixed set of
held-out images; an evaluation is one configuration on all of them. After its last evaluation, an
algorithm gets a constant for every new configuration. For each algorithm, number of evaluations and
budget, prints recalibrated top-1 and cross-entropy of the first proposal on the test images, which
are not used for selection, next to the best uniform configuration within the budget. The
confirmation stage of the task `search` is not included.

With `--out=FILE`, the rows are written after each algorithm, and the same command continues with
those that are missing. Measurements are shared by the algorithms of a run: an evaluation counts for
each, but is computed once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from benchmarks.counted_measures import Counted, Memo
from benchmarks.rows import written_rows
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
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers; continued if it exists")
_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "their recipe")


def compare(folder: str, done: set[tuple[int, str]]) -> Iterator[list[dict]]:
    """Rows of one algorithm and number of evaluations, for each pair that is not done."""
    stored = ConfigDict(read_json(Path(folder) / CONFIG_FILE))
    config = _CONFIG.value.copy_and_resolve_references()
    config.update({"model": stored["model"], "seed": stored["seed"]})
    config.checkpoint, config.tasks = folder, ("search",)
    with tempfile.TemporaryDirectory() as workdir:
        yield from _compare(Run(config, workdir), folder, done)


def _compare(run: Run, folder: str, done: set[tuple[int, str]]) -> Iterator[list[dict]]:
    trained = networks.coupled(run)
    measure = Memo(_measured_on(run, trained))
    accuracies = _Accuracies(run, trained)
    if (0, "uniform") not in done:
        figures = {"rule": "uniform", "evaluations": 0, "spent": 0}
        uniform = [budget.uniform(run.search_space)[0][1] for budget in run.budgets]
        yield [figures | accuracies.row(folder, n, c) for n, c in enumerate(uniform)]
    pairs = [(int(e), rule) for e in _EVALUATIONS.value for rule in _RULES.value]
    for evaluations, rule in [pair for pair in pairs if pair not in done]:
        metric = "error" if rule == "paper" else "divergence"
        counted = Counted(measure, metric, evaluations)
        found = RULES[rule](run, counted, evaluations)
        figures = {"rule": rule, "evaluations": evaluations, "spent": counted.spent}
        print(f"{folder}: {rule}, {counted.spent} evaluations", flush=True)
        yield [figures | accuracies.row(folder, n, c) for n, c in enumerate(found)]


def _measured_on(run: Run, trained: networks.Trained) -> Callable[[np.ndarray, str], np.ndarray]:
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
        return {"run": folder, "images": _IMAGES.value, "budget": budget.text} | figures


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
        line["spent"] = f"{np.mean([r['spent'] for r in own]):.0f}"
        shown.append(line)
    return shown


def _pair(rows: list[dict]) -> str:
    """Mean top-1 in percent and mean cross-entropy."""
    means = [np.mean([row[name] for row in rows]) for name in ("top1", "cross_entropy")]
    return f"{means[0]:.2f} / {means[1]:.4f}"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    out = Path(_OUT.value) if _OUT.value else None
    rows = written_rows(out, _IMAGES.value) if out else []
    for folder in _RUNS.value:
        done = {(row["evaluations"], row["rule"]) for row in rows if row["run"] == folder}
        for more in compare(folder, done):
            rows += more
            if out:
                write_json(out, rows)
    shown = summarize(rows)
    print(table(shown, {name: name for name in shown[0]}))


if __name__ == "__main__":
    app.run(main)
