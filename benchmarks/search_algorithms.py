"""Search algorithms compared on trained networks, at about equal numbers of evaluations.

    python -m benchmarks.search_algorithms --runs=runs/quickstart,runs/another

Every run is the workdir of a finished training; `--config=FILE` names their recipe, further flags
`--config.<field>=VALUE` override it. For each algorithm: accuracy and cross-entropy, recalibrated,
of the first configuration it gives for each budget, without the uniform one and the other finalists
that the task `search` lets compete; evaluations spent; seconds. Accuracies are measured on the
held-out images that the search does not propose on; the test part is not touched. The mean over
budgets and runs comes with the 95 % interval (Student's t over the runs) of the paired difference
from the uniform configurations.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from scipy import stats

from rfquant_jax import settings
from rfquant_jax.report import table
from rfquant_jax.run import Run
from rfquant_jax.search.problem import Problem
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirming import Confirmation
from rfquant_jax.tasks.proposing import candidate_evaluator
from rfquant_jax.workdir import CONFIG_FILE, read_json, write_json

_RUNS = flags.DEFINE_list("runs", None, "workdirs of trained runs", required=True)
_RULES = flags.DEFINE_list("rules", [], "parts of the names of the rules to compare; none: all")
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers")
_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "their recipe")

# name -> fields of config.search; sizes make for about 250 evaluations a budget
RULES: dict[str, dict] = {
    "as published": {"algorithm": "paper"},
    "greedy, error, min-max": {"algorithm": "greedy", "metric": "error", "normalize": "minmax"},
    "greedy, cross-entropy, min-max": {
        "algorithm": "greedy",
        "metric": "cross_entropy",
        "normalize": "minmax",
    },
    "integer programming": {
        "algorithm": "integer",
        "sensitivity_batches": 1,
        "refinement_rounds": 4,
    },
    "evolution": {
        "algorithm": "evolution",
        "metric": "cross_entropy",
        "population": 16,
        "generations": 13,
        "keep": 4,
    },
    "random": {"algorithm": "random", "metric": "cross_entropy", "evaluations": 250},
}


def chosen() -> list[str]:
    """Names of the rules to compare."""
    parts = _RULES.value or [""]
    return [rule for rule in RULES if any(part in rule for part in parts)]


def compare(folder: str) -> list[dict]:
    """One row for each rule and budget."""
    stored = ConfigDict(read_json(Path(folder) / CONFIG_FILE))
    config = _CONFIG.value.copy_and_resolve_references()
    config.update({"model": stored["model"], "seed": stored["seed"]})
    config.checkpoint = folder
    with tempfile.TemporaryDirectory() as workdir:
        return _compare(Run(config, workdir), folder)


def _compare(run: Run, folder: str) -> list[dict]:
    trained = networks.coupled(run)
    confirmed = Confirmation(run, trained)

    def row(rule: str, number: int, configuration: np.ndarray, **figures) -> dict:
        accuracy = confirmed(configuration)
        found = {"top1": accuracy.top1_percent, "cross_entropy": accuracy.mean_loss}
        text = run.budgets[number].text
        return {"run": folder, "rule": rule, "budget": text} | figures | found

    rows = []
    for number, budget in enumerate(run.budgets):
        [(_, uniform)] = budget.uniform(run.knobs)
        rows.append(row("uniform", number, uniform, evaluations=0, seconds=0.0))
    for rule in chosen():
        fields = RULES[rule]
        found, figures = _search(run, trained, fields)
        rows += [row(rule, number, c, **figures) for number, c in enumerate(found)]
    return rows


def _search(run: Run, trained, fields: dict) -> tuple[list[np.ndarray], dict]:
    """The first configuration for each budget, and what finding all of them took."""
    config = ConfigDict(run.config)
    config.search.update(fields)
    space = run.blueprint.space
    evaluate = candidate_evaluator(run, trained, settings.search_metric(config))
    evaluate(space.uniform(4, 4)[None], 0)  # compiles
    spent = 0

    def counted(configurations: np.ndarray, iteration: int) -> np.ndarray:
        nonlocal spent
        spent += len(configurations)
        return evaluate(configurations, iteration)

    algorithm = settings.search_algorithm(config, len(space), lambda move, after: None)
    start = time.monotonic()
    found = algorithm(Problem(run.knobs, tuple(run.budgets), counted, config.seed))
    figures = {"evaluations": spent, "seconds": time.monotonic() - start}
    return [configurations[0] for configurations in found], figures


def summarize(rows: list[dict]) -> list[dict]:
    """A row a rule: means over budgets and runs, by budget, and the difference from uniform."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    top1 = {(r["rule"], r["run"], r["budget"]): r["top1"] for r in rows}
    shown = []
    for rule in ("uniform", *chosen()):
        own = [row for row in rows if row["rule"] == rule]
        line = {"rule": rule} | {
            budget: f"{np.mean([top1[rule, run, budget] for run in runs]):.2f}"
            for budget in budgets
        }
        line["mean"] = f"{np.mean([row['top1'] for row in own]):.2f}"
        differences = [
            np.mean([top1[rule, run, b] - top1["uniform", run, b] for b in budgets]) for run in runs
        ]
        line["difference"] = f"{np.mean(differences):+.2f}"
        if len(runs) > 1 and rule != "uniform":
            error = np.std(differences, ddof=1) / np.sqrt(len(runs))
            line["difference"] += f" ± {stats.t.ppf(0.975, len(runs) - 1) * error:.2f}"
        for name in ("evaluations", "seconds"):
            line[name] = f"{np.mean([row[name] for row in own]):.0f}"
        shown.append(line)
    return shown


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    rows = []
    for folder in _RUNS.value:
        rows += compare(folder)
        print(f"{folder} is done", flush=True)
        if _OUT.value:
            write_json(Path(_OUT.value), rows)
    shown = summarize(rows)
    print(table(shown, {name: name for name in shown[0]}))


if __name__ == "__main__":
    app.run(main)
